//go:build !race

package auth

import (
	"testing"

	"github.com/stretchr/testify/assert"
)

// This file is left out with the race detector, which empties each sync.Pool at random.

func TestSignature_VerifyAllocatesNothing(t *testing.T) {
	s := newSignature(t, keyText, otherText)
	for _, v := range vectors[:2] {
		h, tlvs := header(t, 2, v.src, v.dst), tlvOf(DefaultType, v.seconds+" "+v.sum)
		assert.Zero(t, testing.AllocsPerRun(1000, func() {
			if _, err := s.Verify(h, tlvs); err != nil {
				panic(err)
			}
		}))
	}
}
