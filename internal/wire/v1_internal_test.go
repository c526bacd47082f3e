package wire

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"
)

// What is read without a loop is what the loop reads, to the byte that is wrong.
func TestOctetsAreNumbersUpTo255(t *testing.T) {
	const bytes = "\x00/059:.2 \xff"
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
	for _, a := range []byte(bytes) {
		for _, b := range []byte(bytes) {
			for _, c := range []byte(bytes) {
				for _, d := range []byte(bytes) {
					check(string([]byte{a, b, c, d}))
				}
			}
		}
	}
}
