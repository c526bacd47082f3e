package record

// ring keeps the last elements that were added, as many as its size.
type ring[T any] struct {
	size int
	kept []T // element number n is at n modulo size
	n    int // the number of all elements added
}

func (r *ring[T]) add(element T) {
	if len(r.kept) < r.size {
		r.kept = append(r.kept, element)
	} else {
		r.kept[r.n%r.size] = element
	}
	r.n++
}

// latest returns the elements kept, the latest first.
func (r *ring[T]) latest() []T {
	latest := make([]T, 0, len(r.kept))
	for i := range len(r.kept) {
		latest = append(latest, r.kept[(r.n-1-i)%r.size])
	}
	return latest
}
