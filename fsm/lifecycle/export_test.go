package lifecycle

import "unsafe"

// Followed returns how many sockets are followed, Places for how many there is
// memory.
func (t *Tracker) Followed() int { return t.index.used }
func (t *Tracker) Places() int   { return t.lives.len() - 1 }

// SlotSize is what a connection takes in a Tracker, but for the index.
const SlotSize = unsafe.Sizeof(slot{})
