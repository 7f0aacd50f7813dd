// Package infer infers from the segments of a capture what the state machines of both
// ends did, by the rules of fsm/segment.
//
// An end shows what it does by what it sends. That it has received something it shows by
// acknowledging it, and only then counts it as received: a FIN that nobody acknowledges
// changes nothing at its receiver. That an acknowledgement arrives nothing shows; it is
// taken to arrive when it is captured, and the times that depend on this are bounds.
// docs/captures.md has all of it.
package infer
