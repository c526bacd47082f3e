package auth

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"net/netip"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/portzero/caddy-proxy-protocol/internal/wire"
)

// The keys of tests, in base64: the bytes 0x00 to 0x1f, and "not a secret key".
const (
	keyText   = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="
	otherText = "bm90IGEgc2VjcmV0IGtleQ=="
)

// madeAt is when the signatures of tests were made.
var madeAt = time.Unix(1785000000, 0)

// vectors are signatures that OpenSSL 3 made:
//
//	printf %s "<message>" | openssl dgst -sha256 -mac HMAC -macopt hexkey:<key>
var vectors = []struct{ key, seconds, src, dst, sum string }{
	{keyText, "1785000000", "203.0.113.7:51234", "192.0.2.1:443", "25b25e94f422ebe7ac6c703c0e1889adb95df95252b6b455cc678c5a67db92bf"},
	{keyText, "1785000000", "[2001:db8::7]:51234", "[2001:db8:1::1]:443", "a5c532ae48819792703706633a8a18bfdaef093e74a5ba6ba1569f552b68fc21"},
	{otherText, "1785000000", "[::ffff:203.0.113.7]:1", "[::1]:65535", "a1b7aab8d44eb30c5fac31989e85e3a802b8d23e1328013edc3bbee5a25511ee"},
	{otherText, "0", "[2001:db8::1:0:0:1]:0", "[2001:db8:0:1:1:1:1:1]:0", "1fcfc64d9f6ba0ae3d7a0302780c7889ca5f0e7747beaa65be3fa6dbb150b5e4"},
}

// signed is the signature of the first vector, for client and server below.
var (
	signed = vectors[0].seconds + " " + vectors[0].sum
	client = vectors[0].src
	server = vectors[0].dst
)

func parseKey(t testing.TB, text string) *Key {
	key, err := ParseKey(text)
	require.NoError(t, err)
	return key
}

// newSignature returns what verifies signatures of these keys.
func newSignature(t testing.TB, keys ...string) *Signature {
	var parsed []*Key
	for _, text := range keys {
		parsed = append(parsed, parseKey(t, text))
	}
	s, err := NewSignature(parsed, DefaultType, DefaultMaxAge)
	require.NoError(t, err)
	return s
}

// header returns a header of a TCP connection.
func header(t testing.TB, version uint8, src, dst string) *wire.Header {
	h, err := wire.NewProxy(version, wire.Stream, netip.MustParseAddrPort(src), netip.MustParseAddrPort(dst))
	require.NoError(t, err)
	return &h
}

// tlvOf returns the encoded form of a TLV.
func tlvOf(typ wire.Type, value string) wire.TLVs {
	return append(wire.TLVs{byte(typ), byte(len(value) >> 8), byte(len(value))}, value...)
}

func TestSignature_VerifiesWhatOpenSSLMade(t *testing.T) {
	for _, v := range vectors {
		t.Run(v.src, func(t *testing.T) {
			h := header(t, 2, v.src, v.dst)
			for _, value := range []string{v.seconds + " " + v.sum, v.seconds + " " + strings.ToUpper(v.sum)} {
				made, err := newSignature(t, v.key).Verify(h, tlvOf(DefaultType, value))
				require.NoError(t, err)
				assert.Equal(t, v.seconds, strconv.FormatInt(made.Unix(), 10))
				assert.Zero(t, made.Nanosecond())
			}
		})
	}
}

func TestKey_SignsAsOpenSSLDoes(t *testing.T) {
	for _, v := range vectors {
		seconds, _ := strconv.ParseInt(v.seconds, 10, 64)
		value, err := parseKey(t, v.key).Sign(header(t, 2, v.src, v.dst), time.Unix(seconds, 999_999_999))
		require.NoError(t, err)
		assert.Equal(t, v.seconds+" "+v.sum, string(value))
	}
}

func TestKey_SignsOnlyVersion2HeadersWithAddresses(t *testing.T) {
	local, unknown := wire.NewLocal(), wire.NewUnknown(2)
	for name, h := range map[string]*wire.Header{
		"local": &local, "unknown": &unknown, "none": new(wire.Header), "v1": header(t, 1, client, server),
	} {
		value, err := parseKey(t, keyText).Sign(h, madeAt)
		assert.Equal(t, errNotSignable, err, name)
		assert.Empty(t, value, name)
	}
}

func TestSignature_RefusesAnythingElse(t *testing.T) {
	sum := vectors[0].sum
	local, unknown := wire.NewLocal(), wire.NewUnknown(2)
	h := header(t, 2, client, server)
	dgram, err := wire.NewProxy(2, wire.Dgram, h.Source(), h.Destination())
	require.NoError(t, err)
	_, err = newSignature(t, keyText).Verify(&dgram, tlvOf(DefaultType, signed))
	require.NoError(t, err, "the transport is not part of the message")

	for name, test := range map[string]struct {
		header *wire.Header
		tlvs   wire.TLVs
		want   error
	}{
		"no TLV":                      {h, nil, errUnsigned},
		"of another type":             {h, tlvOf(0xe6, signed), errUnsigned},
		"twice":                       {h, append(tlvOf(DefaultType, signed), tlvOf(DefaultType, signed)...), errTwice},
		"twice, the first one wrong":  {h, append(tlvOf(DefaultType, ""), tlvOf(DefaultType, signed)...), errTwice},
		"twice, the second one wrong": {h, append(append(tlvOf(DefaultType, signed), tlvOf(1, "h2")...), tlvOf(DefaultType, "")...), errTwice},
		"three times":                 {h, bytes.Repeat(tlvOf(DefaultType, signed), 3), errTwice},
		"LOCAL":                       {&local, tlvOf(DefaultType, signed), errNoAddrs},
		"unspecified":                 {&unknown, tlvOf(DefaultType, signed), errNoAddrs},
		"no header":                   {new(wire.Header), tlvOf(DefaultType, signed), errNoAddrs},
		"another client":              {header(t, 2, "203.0.113.8:51234", server), tlvOf(DefaultType, signed), errKey},
		"another port":                {header(t, 2, "203.0.113.7:51235", server), tlvOf(DefaultType, signed), errKey},
		"another server":              {header(t, 2, client, "192.0.2.2:443"), tlvOf(DefaultType, signed), errKey},
		"another port of the server":  {header(t, 2, client, "192.0.2.1:80"), tlvOf(DefaultType, signed), errKey},
		"the other way round":         {header(t, 2, server, client), tlvOf(DefaultType, signed), errKey},
		"an IPv4-mapped client":       {header(t, 2, "[::ffff:203.0.113.7]:51234", "[::ffff:192.0.2.1]:443"), tlvOf(DefaultType, signed), errKey},
		"another time":                {h, tlvOf(DefaultType, "1785000001 "+sum), errKey},
		"another first digit":         {h, tlvOf(DefaultType, "1785000000 3"+sum[1:]), errKey},
		"another last digit":          {h, tlvOf(DefaultType, "1785000000 "+sum[:63]+"e"), errKey},
		"of zeros":                    {h, tlvOf(DefaultType, "1785000000 "+strings.Repeat("0", 64)), errKey},
	} {
		t.Run(name, func(t *testing.T) {
			made, err := newSignature(t, keyText).Verify(test.header, test.tlvs)
			assert.Equal(t, test.want, err)
			assert.Zero(t, made)
		})
	}
}

func TestSignature_RefusesAnotherForm(t *testing.T) {
	sum := vectors[0].sum
	for name, test := range map[string]struct {
		value string
		want  error
	}{
		"empty":                  {"", errForm},
		"no space":               {"1785000000" + sum, errForm},
		"a tab":                  {"1785000000\t" + sum, errForm},
		"no time":                {sum, errForm},
		"an empty time":          {" " + sum, errSeconds},
		"a space before":         {" " + signed, errSeconds},
		"a space behind":         {signed + " ", errHex},
		"two spaces":             {"1785000000  " + sum, errHex},
		"a line feed behind":     {signed + "\n", errHex},
		"a zero byte behind":     {signed + "\x00", errHex},
		"a plus sign":            {"+1785000000 " + sum, errSeconds},
		"a minus sign":           {"-1785000000 " + sum, errSeconds},
		"a leading zero":         {"01785000000 " + sum, errSeconds},
		"two zeros":              {"00 " + sum, errSeconds},
		"13 digits":              {"1785000000000 " + sum, errSeconds},
		"20 digits":              {"18446744073709551616 " + sum, errSeconds},
		"a point":                {"1785000000.0 " + sum, errSeconds},
		"hexadecimal time":       {"0x6a64d5c0 " + sum, errSeconds},
		"a slash":                {"178500000/ " + sum, errSeconds},
		"a colon":                {"178500000: " + sum, errSeconds},
		"other digits":           {"１ " + sum, errSeconds},
		"a digit less":           {"1785000000 " + sum[1:], errHex},
		"a digit more":           {signed + "0", errHex},
		"no digit":               {"1785000000 ", errHex},
		"no hexadecimal digit":   {"1785000000 g" + sum[1:], errHex},
		"0x before":              {"1785000000 0x" + sum[2:], errHex},
		"65535 bytes of time":    {strings.Repeat("1", 65535-65) + " " + sum, errSeconds},
		"65535 bytes of digits":  {"1 " + strings.Repeat("a", 65533), errHex},
		"65535 spaces":           {strings.Repeat(" ", 65535), errSeconds},
		"65535 bytes, no space":  {strings.Repeat("1", 65535), errForm},
		"signatures in one TLV":  {signed + " " + signed, errHex},
		"a comma between":        {"1785000000," + sum, errForm},
		"base64 in place of hex": {"1785000000 JbJelPQi6+esbHA8DhiJrbld+VJStrRVzGeMWmfbkr8=", errHex},
	} {
		t.Run(name, func(t *testing.T) {
			h := header(t, 2, client, server)
			made, err := newSignature(t, keyText).Verify(h, tlvOf(DefaultType, test.value))
			assert.Equal(t, test.want, err)
			assert.Zero(t, made)
		})
	}
}

func TestSignature_AcceptsTimesOf1To12Digits(t *testing.T) {
	h := header(t, 2, client, server)
	for _, seconds := range []int64{0, 1, 9, 10, 1785000000, 999_999_999_999} {
		value, err := parseKey(t, keyText).Sign(h, time.Unix(seconds, 0))
		require.NoError(t, err)
		made, err := newSignature(t, keyText).Verify(h, tlvOf(DefaultType, string(value)))
		require.NoError(t, err)
		assert.Equal(t, seconds, made.Unix())
	}
}

func TestSignature_AcceptsAnyOfTheKeys(t *testing.T) {
	h := header(t, 2, client, server)
	third := base64.StdEncoding.EncodeToString(bytes.Repeat([]byte{3}, 64))
	for _, test := range []struct {
		keys []string
		want error
	}{
		{[]string{keyText}, nil},
		{[]string{keyText, otherText}, nil},
		{[]string{otherText, keyText}, nil},
		{[]string{otherText, keyText, third}, nil},
		{[]string{keyText, keyText}, nil},
		{[]string{otherText}, errKey},
		{[]string{otherText, third}, errKey},
	} {
		_, err := newSignature(t, test.keys...).Verify(h, tlvOf(DefaultType, signed))
		assert.Equal(t, test.want, err, "%v", test.keys)
	}
}

// An HMAC pads keys with zeros, so that a key is equal to itself with zeros behind it. Others are
// not.
func TestSignature_RefusesSimilarKeys(t *testing.T) {
	key, err := base64.StdEncoding.DecodeString(keyText)
	require.NoError(t, err)
	for i := range key {
		similar := bytes.Clone(key)
		similar[i] ^= 1
		_, err := newSignature(t, base64.StdEncoding.EncodeToString(similar)).Verify(header(t, 2, client, server), tlvOf(DefaultType, signed))
		assert.Equal(t, errKey, err)
	}
}

func TestSignature_RefusesEveryOtherBit(t *testing.T) {
	s, h := newSignature(t, keyText), header(t, 2, client, server)
	for i := range signed {
		for bit := range 8 {
			value := []byte(signed)
			value[i] ^= 1 << bit
			if strings.EqualFold(string(value), signed) {
				continue // the other case of a hexadecimal digit
			}
			_, err := s.Verify(h, tlvOf(DefaultType, string(value)))
			assert.Error(t, err, "%q", value)
		}
	}
}

func TestSignature_ChecksItsAge(t *testing.T) {
	s, err := NewSignature([]*Key{parseKey(t, keyText)}, DefaultType, 2500*time.Millisecond)
	require.NoError(t, err)
	year := 365 * 24 * time.Hour
	for _, test := range []struct {
		now  time.Time
		want string
	}{
		{madeAt, ""},
		{madeAt.Add(2999 * time.Millisecond), ""},
		{madeAt.Add(3 * time.Second), "the signature is 3 seconds old, but max_age is 2.5s: a replay, or the clock of the load balancer or of this machine is wrong"},
		{madeAt.Add(-2 * time.Second), ""},
		{madeAt.Add(-2001 * time.Millisecond), "the signature is from 3 seconds in the future, but max_age is 2.5s: the clock of the load balancer or of this machine is wrong"},
		{madeAt.Add(200 * year), "the signature is 6307200000 seconds old, but max_age is 2.5s: a replay, or the clock of the load balancer or of this machine is wrong"},
		{time.Unix(0, 0), "the signature is from 1785000000 seconds in the future, but max_age is 2.5s: the clock of the load balancer or of this machine is wrong"},
	} {
		err := s.CheckAge(madeAt, test.now)
		if test.want == "" {
			assert.NoError(t, err, test.now)
		} else {
			assert.EqualError(t, err, test.want)
		}
	}
	// The times that are farthest apart do not overflow.
	assert.ErrorContains(t, s.CheckAge(time.Unix(999_999_999_999, 0), madeAt), "is from 998214999999 seconds in the future")
	assert.ErrorContains(t, s.CheckAge(time.Unix(0, 0), time.Unix(999_999_999_999, 0)), "is 999999999999 seconds old")
}

func TestNewSignature_Bounds(t *testing.T) {
	keys := []*Key{parseKey(t, keyText)}
	_, err := NewSignature(nil, DefaultType, DefaultMaxAge)
	assert.EqualError(t, err, "keys: missing: write at least one")
	for _, age := range []time.Duration{0, -time.Second, time.Second - 1} {
		_, err = NewSignature(keys, DefaultType, age)
		assert.ErrorContains(t, err, "max_age: "+age.String()+" is shorter than 1s: use a value such as 30s")
	}
	s, err := NewSignature(keys, 0xef, time.Second)
	require.NoError(t, err)
	assert.Equal(t, wire.Type(0xef), s.Type())
	assert.Equal(t, time.Second, s.MaxAge())
	_, err = s.Verify(header(t, 2, client, server), tlvOf(0xef, signed))
	assert.NoError(t, err)
}

func TestParseKey(t *testing.T) {
	for name, test := range map[string]struct{ text, err string }{
		"16 bytes":          {otherText, ""},
		"line feeds":        {otherText[:8] + "\n" + otherText[8:] + "\r\n", ""},
		"15 bytes":          {base64.StdEncoding.EncodeToString(make([]byte, 15)), "has 15 bytes, but needs at least 16: make one with: caddy proxy-protocol keygen"},
		"empty":             {"", "has 0 bytes, but needs at least 16: make one with: caddy proxy-protocol keygen"},
		"hexadecimal":       {"000102030405060708090a0b0c0d0e0", "is not in base64: make one with: caddy proxy-protocol keygen"},
		"a placeholder":     {"{env.LB_KEY}", "is not in base64: make one with: caddy proxy-protocol keygen"},
		"without padding":   {strings.TrimRight(otherText, "="), "is not in base64: make one with: caddy proxy-protocol keygen"},
		"base64 for URLs":   {"_-" + otherText[2:], "is not in base64: make one with: caddy proxy-protocol keygen"},
		"spaces at the end": {otherText + " ", "is not in base64: make one with: caddy proxy-protocol keygen"},
	} {
		t.Run(name, func(t *testing.T) {
			key, err := ParseKey(test.text)
			if test.err == "" {
				require.NoError(t, err)
				require.NotNil(t, key)
				return
			}
			assert.EqualError(t, err, test.err)
			assert.Nil(t, key)
		})
	}
}

func TestKey_PrintsNoSecret(t *testing.T) {
	key := parseKey(t, otherText)
	_, err := key.Sign(header(t, 2, client, server), madeAt)
	require.NoError(t, err)
	for _, format := range []string{"%v", "%+v", "%s", "%#v", "%x", "%q"} {
		text := fmt.Sprintf(format, key)
		for _, secret := range []string{"not a secret key", otherText, hex.EncodeToString([]byte("not a secret key"))} {
			assert.NotContains(t, text, secret, format)
		}
	}
	assert.Equal(t, "[redacted]", key.String())
}

func TestNewKey_KeepsACopy(t *testing.T) {
	secret := []byte("not a secret key")
	key, err := NewKey(secret)
	require.NoError(t, err)
	clear(secret)
	value, err := key.Sign(header(t, 2, vectors[3].src, vectors[3].dst), time.Unix(0, 0))
	require.NoError(t, err)
	assert.Equal(t, "0 "+vectors[3].sum, string(value))
}

func TestSignature_CanBeUsedAtTheSameTime(t *testing.T) {
	s := newSignature(t, otherText, keyText)
	headers, tlvs := make([]*wire.Header, len(vectors)), make([]wire.TLVs, len(vectors))
	for i, v := range vectors {
		headers[i], tlvs[i] = header(t, 2, v.src, v.dst), tlvOf(DefaultType, v.seconds+" "+v.sum)
	}
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for i := range 400 {
				a, b := i%len(vectors), (i+1)%len(vectors)
				_, err := s.Verify(headers[a], tlvs[a])
				assert.NoError(t, err)
				_, err = s.Verify(headers[a], tlvs[b])
				assert.Equal(t, errKey, err)
			}
		})
	}
	wg.Wait()
}

var validStamp = regexp.MustCompile(`^(0|[1-9][0-9]{0,11}) [0-9a-fA-F]{64}$`)

// FuzzStamp compares the parser with a regular expression, and checks that what it read is what
// the value says.
func FuzzStamp(f *testing.F) {
	for _, value := range []string{
		"", " ", "0", "0 ", signed, strings.ToUpper(signed), " " + signed, signed + " ", "+" + signed, "0" + signed, "00 " + vectors[0].sum,
		"0 " + vectors[0].sum, "999999999999 " + vectors[0].sum, "1999999999999 " + vectors[0].sum, "1785000000  " + vectors[0].sum,
		"1785000000 " + vectors[0].sum[:63], "1785000000 " + vectors[0].sum + "0", "178500000x " + vectors[0].sum, "1785000000 x" + vectors[0].sum[1:],
		strings.Repeat("1", 65535), strings.Repeat("1 ", 300),
	} {
		f.Add([]byte(value))
	}
	f.Fuzz(func(t *testing.T, value []byte) {
		s, err := parseStamp(value)
		if valid := validStamp.Match(value); valid != (err == nil) {
			t.Fatalf("%q: valid is %v, but the error is %v", value, valid, err)
		}
		if err != nil {
			return
		}
		if text := string(s.append(nil)); text != strings.ToLower(string(value)) {
			t.Fatalf("%q was read as %q", value, text)
		}
	})
}

// BenchmarkVerify verifies the signature of a header.
func BenchmarkVerify(b *testing.B) {
	for _, keys := range [][]string{{keyText}, {otherText, keyText}} {
		for _, v := range vectors[:2] {
			b.Run(fmt.Sprintf("keys=%d/%s", len(keys), v.src), func(b *testing.B) {
				s, h, tlvs := newSignature(b, keys...), header(b, 2, v.src, v.dst), tlvOf(DefaultType, v.seconds+" "+v.sum)
				b.ReportAllocs()
				for b.Loop() {
					if _, err := s.Verify(h, tlvs); err != nil {
						b.Fatal(err)
					}
				}
			})
		}
	}
}
