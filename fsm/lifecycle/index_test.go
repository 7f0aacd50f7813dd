package lifecycle

import (
	"math/rand/v2"
	"testing"
)

// The index is held against a map, with few sockets that come and go, so that
// entries collide, move up and wrap around.
func TestIndex(t *testing.T) {
	for seed := range uint64(20) {
		r := rand.New(rand.NewPCG(seed, 1))
		lives, x := slab{make([]slot, 1, chunk)}, newIndex()
		want := map[socketID]int32{}
		var free []int32
		for step := range 5000 {
			id := socketID{uint64(r.IntN(20 + step/50)), uint32(r.IntN(2))}
			place, there := want[id]
			if got := x.entries[x.find(lives, id)].place; got != place {
				t.Fatalf("seed %d, step %d: %v is at %d, want %d", seed, step, id, got, place)
			}
			switch {
			case there:
				x.remove(lives, id)
				delete(want, id)
				free = append(free, place)
			case len(free) > 0 && r.IntN(2) == 0:
				place, free = free[0], free[1:]
			default:
				place = lives.add()
			}
			if !there {
				*lives.at(place) = slot{Life: Life{cookie: id.cookie, generation: id.generation}}
				x.put(lives, place)
				want[id] = place
			}
		}
		if x.used != len(want) || 8*x.used > 7*len(x.entries) {
			t.Errorf("seed %d: %d in use of %d, want %d", seed, x.used, len(x.entries), len(want))
		}
		for id, place := range want {
			if got := x.entries[x.find(lives, id)].place; got != place {
				t.Errorf("seed %d: at the end %v is at %d, want %d", seed, id, got, place)
			}
		}
	}
}
