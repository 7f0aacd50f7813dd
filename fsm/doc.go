// Package fsm holds the rules: the TCP states, the reference machine of RFC
// 9293 as one table with the trigger and section of each edge, how Linux
// renders it, and [Check], which judges one transition by them.
//
// The package has no state and does no I/O; everything in it may be used from
// any number of goroutines.
package fsm
