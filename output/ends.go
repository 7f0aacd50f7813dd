package output

import (
	"net/netip"

	"tcptrace/events"
)

// family names the family on the wire.
func family(e *events.Event) string {
	if e.Local.Addr().Is4() || e.Remote.Addr().Is4() {
		return "ipv4"
	}
	return "ipv6"
}

// knownEnds returns both ends of a socket without what is not known: an invalid
// address, port 0. A listener's own address may be unspecified, and is known; a
// peer's may not.
func knownEnds(e *events.Event) (local, remote netip.AddrPort) {
	local, remote = e.Local, e.Remote
	if local.Addr().IsUnspecified() && e.EndsPending() {
		local = netip.AddrPortFrom(netip.Addr{}, local.Port())
	}
	if remote.Addr().IsUnspecified() {
		remote = netip.AddrPortFrom(netip.Addr{}, remote.Port())
	}
	return local, remote
}
