package lifecycle

import "math/rand/v2"

// index finds the place of a socket in a slab: a hash table of the places alone,
// a quarter of what a map would take. Collisions go to the next free entry.
type index struct {
	entries []int32 // places; 0: free. Its length is a power of two
	used    int
	seed    uint64 // so that nobody can make a recording whose sockets all collide
}

func newIndex() index {
	return index{entries: make([]int32, 16), seed: rand.Uint64()}
}

// home is where the socket's entry would be best.
func (x *index) home(id socketID) int {
	h := (id.cookie ^ x.seed) + uint64(id.generation)*0x9e3779b97f4a7c15
	h = (h ^ h>>33) * 0xff51afd7ed558ccd
	h = (h ^ h>>33) * 0xc4ceb9fe1a85ec53
	return int(h^h>>33) & (len(x.entries) - 1)
}

func (x *index) next(e int) int { return (e + 1) & (len(x.entries) - 1) }

// find returns the entry of the socket, or the free one where it would be.
func (x *index) find(s slab, id socketID) int {
	e := x.home(id)
	for x.entries[e] != 0 && s.at(x.entries[e]).id() != id {
		e = x.next(e)
	}
	return e
}

// put adds a place that is not there yet.
func (x *index) put(s slab, place int32) {
	if 4*(x.used+1) > 3*len(x.entries) {
		old := x.entries
		x.entries = make([]int32, 2*len(old))
		for _, p := range old {
			if p != 0 {
				x.entries[x.find(s, s.at(p).id())] = p
			}
		}
	}
	x.entries[x.find(s, s.at(place).id())] = place
	x.used++
}

// remove frees the entry of the socket. Those after it that would be better
// there move up.
func (x *index) remove(s slab, id socketID) {
	hole := x.find(s, id)
	mask := len(x.entries) - 1
	for e := x.next(hole); x.entries[e] != 0; e = x.next(e) {
		home := x.home(s.at(x.entries[e]).id())
		if (e-home)&mask >= (e-hole)&mask {
			x.entries[hole] = x.entries[e]
			hole = e
		}
	}
	x.entries[hole] = 0
	x.used--
}
