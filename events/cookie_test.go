package events

import "testing"

// TestCookies: what names a socket is read as it is written, and an end of a connection in
// a capture is never taken for a socket of the kernel.
func TestCookies(t *testing.T) {
	for cookie, want := range map[uint64]string{
		1: "1", 0xbeef: "beef", 1<<64 - 1: "ffffffffffffffff", 1 << 63: "8000000000000000",
		WireCookie(1, false): "wire-1a", WireCookie(12, true): "wire-12b", WireCookie(1<<40, true): "wire-1099511627776b",
	} {
		text := string(AppendCookie(nil, cookie))
		if text != want {
			t.Errorf("%#x is %s, want %s", cookie, text, want)
		}
		if got, err := ParseCookie(text); got != cookie || err != nil {
			t.Errorf("%s is %#x, %v, want %#x", text, got, err, cookie)
		}
		if wire := text[0] == 'w'; IsWireCookie(cookie) != wire {
			t.Errorf("%s is of a capture: %t, want %t", text, !wire, wire)
		}
	}
	if n, second := WireConnection(WireCookie(77, true)); n != 77 || !second {
		t.Errorf("connection %d, second %t, want 77, true", n, second)
	}
	if got, err := ParseCookie("0xBEEF"); got != 0xbeef || err != nil {
		t.Errorf("0xBEEF is %#x, %v", got, err)
	}
	for _, text := range []string{"", "0", "x", "wire-", "wire-1", "wire-a", "wire-1c", "wire--1a", "wire-999999999999999999a", "9293000000000002"} {
		if got, err := ParseCookie(text); err == nil {
			t.Errorf("%q is %#x, want an error", text, got)
		}
	}
}
