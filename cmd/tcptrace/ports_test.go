package main

import "testing"

func TestParsePortRange(t *testing.T) {
	for _, test := range []struct {
		ports, reserved string
		want            uint64
	}{
		{"32768\t60999\n", "\n", 28232},
		{"1000\t1000\n", "", 1},
		{"1000\t1009\n", "1001,1005-1006,2000\n", 7},
		{"1000\t1009\n", "1-65535\n", 0},
		{"1024\t65535\n", "\n", 64512},
		{"", "", 0},
		{"1000", "", 0},
		{"a b", "", 0},
		{"1000\t1009\n", "none", 0},
	} {
		if got := parsePortRange(test.ports, test.reserved); got != test.want {
			t.Errorf("%q without %q: %d, want %d", test.ports, test.reserved, got, test.want)
		}
	}
}
