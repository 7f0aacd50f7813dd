package lifecycle

// Followed returns how many sockets are followed, Places for how many there is
// memory.
func (t *Tracker) Followed() int { return len(t.byID) }
func (t *Tracker) Places() int   { return len(t.lives) - 1 }
