// Package pcap reads TCP segments from captures: pcap and pcapng, as they are or
// compressed by gzip or zstd. It decodes headers in place and allocates nothing for a
// segment.
package pcap
