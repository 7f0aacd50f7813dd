package lifecycle

import "math/rand/v2"

// index finds the place of a socket in a slab: a hash table of the places alone,
// less than half of what a map would take. Collisions go to the next free entry.
type index struct {
	entries []entry // its length is a power of two
	used    int
	seed    uint64 // so that nobody can make a recording whose sockets all collide
}

// entry has the hash of its socket with it, so that the sockets of others, which are
// seldom in the cache, are not looked at.
type entry struct {
	place int32 // 0: free
	hash  uint32
}

func newIndex() index {
	return index{entries: make([]entry, 16), seed: rand.Uint64()}
}

func (x *index) hash(id socketID) uint32 {
	h := (id.cookie ^ x.seed) + uint64(id.generation)*0x9e3779b97f4a7c15
	h = (h ^ h>>33) * 0xff51afd7ed558ccd
	h = (h ^ h>>33) * 0xc4ceb9fe1a85ec53
	return uint32(h ^ h>>33)
}

// home is where the entry of a hash would be best.
func (x *index) home(hash uint32) int { return int(hash) & (len(x.entries) - 1) }

func (x *index) next(e int) int { return (e + 1) & (len(x.entries) - 1) }

// find returns the entry of the socket, or the free one where it would be.
func (x *index) find(s slab, id socketID) int {
	hash := x.hash(id)
	for e := x.home(hash); ; e = x.next(e) {
		switch at := &x.entries[e]; {
		case at.place == 0, at.hash == hash && s.at(at.place).id() == id:
			return e
		}
	}
}

// put adds the place of a socket that is not there yet.
func (x *index) put(s slab, place int32) {
	if 8*(x.used+1) > 7*len(x.entries) {
		old := x.entries
		x.entries = make([]entry, 2*len(old))
		for _, at := range old {
			if at.place != 0 {
				x.insert(at)
			}
		}
	}
	x.insert(entry{place, x.hash(s.at(place).id())})
	x.used++
}

// insert takes the first free entry.
func (x *index) insert(at entry) {
	e := x.home(at.hash)
	for x.entries[e].place != 0 {
		e = x.next(e)
	}
	x.entries[e] = at
}

// remove frees the entry of the socket. Those after it that would be better
// there move up.
func (x *index) remove(s slab, id socketID) {
	hole := x.find(s, id)
	mask := len(x.entries) - 1
	for e := x.next(hole); x.entries[e].place != 0; e = x.next(e) {
		if home := x.home(x.entries[e].hash); (e-home)&mask >= (e-hole)&mask {
			x.entries[hole] = x.entries[e]
			hole = e
		}
	}
	x.entries[hole] = entry{}
	x.used--
}
