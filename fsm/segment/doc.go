// Package segment is the second layer of the reference machine: what a TCP segment
// does to the state of the end that sends it and of the end that it reaches, as
// RFC 9293 3.10.7 has it.
//
// It knows no clock and no connection. Where a segment lies against the window, and
// what it acknowledges, is given in words ([Position], [Acked]), so that there are few
// enough cases to look at each.
package segment
