package wire

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"
)

// parseOctet returns the same as parseNumber, including the offset of the wrong byte.
func TestOctetsAreNumbersUpTo255(t *testing.T) {
	const some = "\x00/059:.2 \xff"
	check := func(line string) {
		for at := range len(line) + 1 {
			wantN, wantNext, wantOK := parseNumber([]byte(line), at, 255)
			n, next, ok := parseOctet([]byte(line), at)
			require.Equal(t, []any{wantNext, wantOK}, []any{next, ok}, "%q at %d", line, at)
			if ok {
				require.Equal(t, wantN, n, "%q at %d", line, at)
			}
		}
	}
	for i := range 2000 {
		check(fmt.Sprint(i))
		check(fmt.Sprint(i, "."))
		check(fmt.Sprintf("%03d.", i))
	}
	for i := range 10_000 { // every text of four of these bytes
		check(string([]byte{some[i/1000], some[i/100%10], some[i/10%10], some[i%10]}))
	}
}
