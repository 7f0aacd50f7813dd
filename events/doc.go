// Package events is what came off the wire between kernel and user space: the
// [Event] of one transition, its byte layout and decoding, the clock that dates
// it, the order it is delivered in, and the filter that chooses.
//
// Package capture below it keeps the same records in files.
package events
