package wire_test

import (
	"bufio"
	"bytes"
	"testing"

	"github.com/mastercactapus/proxyprotocol"
	proxyproto "github.com/pires/go-proxyproto"

	"github.com/portzero/caddy-proxy-protocol/internal/testutil/cputime"
	"github.com/portzero/caddy-proxy-protocol/internal/wire"
)

// benchmarked are headers as load balancers send them. The v1 addresses are neither the
// shortest nor the longest.
var benchmarked = []struct{ name, header string }{
	{"v1/ipv4", "PROXY TCP4 203.0.113.195 10.0.12.34 56324 443\r\n"},
	{"v1/ipv6", "PROXY TCP6 2001:db8:85a3::8a2e:370:7334 2001:db8:1b::10 56324 443\r\n"},
	{"v2/ipv4", v2(proxy, 0x11, addrs4)},
	{"v2/ipv6", v2(proxy, 0x21, addrs6)},
	// Checksum, VPC endpoint ID and padding, 100 bytes. Only this package's decoder
	// verifies the checksum and walks the TLVs; pires does not.
	{"v2/aws", awsVPCE},
}

// BenchmarkDecode measures the way from received bytes, a header and a request, to a
// decoded header. All decoders read in the same way: one Read of all bytes into a reused
// buffer of 256 bytes, the size that pires/go-proxyproto gives each connection. Its
// allocation of such a buffer and a bufio.Reader per connection is not measured.
func BenchmarkDecode(b *testing.B) {
	for _, bc := range benchmarked {
		received := []byte(bc.header + "GET / HTTP/1.1\r\nHost: example.com\r\n\r\n")

		b.Run(bc.name+"/this", func(b *testing.B) {
			conn := bytes.NewReader(received)
			buffer := make([]byte, 256)
			b.ReportAllocs()
			defer cputime.Report(b)()
			for b.Loop() {
				conn.Reset(received)
				n, _ := conn.Read(buffer)
				if got := wire.Decode(buffer[:n], 4096); got.State != wire.Complete {
					b.Fatal(got.Err)
				}
			}
		})
		buffered := func(read func(*bufio.Reader) error) func(*testing.B) {
			return func(b *testing.B) {
				conn := bytes.NewReader(received)
				buffered := bufio.NewReaderSize(conn, 256)
				b.ReportAllocs()
				defer cputime.Report(b)()
				for b.Loop() {
					conn.Reset(received)
					buffered.Reset(conn)
					if err := read(buffered); err != nil {
						b.Fatal(err)
					}
				}
			}
		}
		b.Run(bc.name+"/pires", buffered(func(r *bufio.Reader) error {
			_, err := proxyproto.Read(r)
			return err
		}))
		if bc.name == "v2/aws" {
			continue // mastercactapus/proxyprotocol refuses all headers with TLVs
		}
		b.Run(bc.name+"/mastercactapus", buffered(func(r *bufio.Reader) error {
			_, err := proxyprotocol.Parse(r)
			return err
		}))
	}
}

// BenchmarkDecodeRefused measures the work that a peer can cause with bytes that are not a
// valid header.
func BenchmarkDecodeRefused(b *testing.B) {
	for _, bc := range []struct{ name, in string }{
		{"no header", "GET / HTTP/1.1\r\nHost: example.com\r\n\r\n"},
		{"an endless line", "PROXY TCP4 " + string(bytes.Repeat([]byte("1"), 300))},
		{"a wrong checksum", inTCP4(noSum)},
	} {
		b.Run(bc.name, func(b *testing.B) {
			in := []byte(bc.in)
			b.ReportAllocs()
			for b.Loop() {
				if got := wire.Decode(in, 4096); got.State == wire.Complete {
					b.Fatal("accepted")
				}
			}
		})
	}
}

func BenchmarkAppend(b *testing.B) {
	buffer := make([]byte, 0, 256)
	for _, bc := range []struct {
		name     string
		header   wire.Header
		checksum bool
	}{
		{"v1/ipv4", newProxy(b, 1, wire.Stream, "203.0.113.195:56324", "10.0.12.34:443"), false},
		{"v1/ipv6", newProxy(b, 1, wire.Stream, "[2001:db8:85a3::8a2e:370:7334]:56324", "[2001:db8:1b::10]:443"), false},
		{"v2/ipv4", newProxy(b, 2, wire.Stream, "203.0.113.195:56324", "10.0.12.34:443"), true},
		{"v2/ipv6", newProxy(b, 2, wire.Stream, "[2001:db8:85a3::8a2e:370:7334]:56324", "[2001:db8:1b::10]:443"), true},
	} {
		b.Run(bc.name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, err := wire.Append(buffer, bc.header, nil, bc.checksum); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
