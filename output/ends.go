package output

import "net/netip"

// family names the family on the wire.
func family(local, remote netip.AddrPort) string {
	if local.Addr().Is4() || remote.Addr().Is4() {
		return "ipv4"
	}
	return "ipv6"
}

// knownEnds returns both ends of a socket without what is not known: an invalid
// address, port 0. A listener's own address may be unspecified, and is known; a
// peer's may not, nor one that is pending.
func knownEnds(local, remote netip.AddrPort, pending bool) (netip.AddrPort, netip.AddrPort) {
	if local.Addr().IsUnspecified() && pending {
		local = netip.AddrPortFrom(netip.Addr{}, local.Port())
	}
	if remote.Addr().IsUnspecified() {
		remote = netip.AddrPortFrom(netip.Addr{}, remote.Port())
	}
	return local, remote
}

// Ends returns both ends of a socket for people, as of a row: without what is not known.
func Ends(local, remote netip.AddrPort) (string, string) {
	local, remote = knownEnds(local, remote, true)
	return string(appendCommon(nil, local)), string(appendCommon(nil, remote))
}
