package events

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"strconv"
	"strings"

	"tcptrace/fsm"
)

// Event is one transition of one TCP socket, as the kernel reported it.
type Event struct {
	// Time of the transition in nanoseconds of CLOCK_BOOTTIME; [Clock] makes a
	// date of it.
	Time uint64
	// Entered is when From was entered, on the same clock. 0 means that this
	// was not seen.
	Entered uint64
	// Cookie names the socket for as long as the host is up; ss -e shows it as
	// sk:. A handshake that came to nothing had no socket, and has 0.
	Cookie uint64
	// Generation counts the earlier lives of the socket: each time it leaves
	// CLOSED again, a new one begins.
	Generation uint32
	// Seq numbers the records of one generation from 1, lost ones included. 0
	// means that the kernel had no memory to count.
	Seq uint32

	From, To fsm.State

	// Local and Remote are the ends as on the wire: v4-mapped addresses are
	// IPv4. A port of 0 is not known yet, or there is none.
	Local, Remote netip.AddrPort

	// Owner is the process the socket belongs to, where that is certain.
	Owner Owner
	// NetNS is the inode of the socket's network namespace.
	NetNS uint32
	// Cgroup is the id of the socket's cgroup, 0 where it is not known.
	Cgroup uint64

	// BytesAcked counts SYN and FIN, BytesReceived the FIN, as tcpi_bytes_acked
	// and tcpi_bytes_received do. BytesSent is payload, each byte once.
	BytesAcked    uint64
	BytesReceived uint64
	BytesSent     uint64
	// SRTT is the smoothed round-trip time in microseconds, 0 for none measured.
	SRTT        uint32
	Retransmits uint32

	Source Source
	// End is why a minisock or a handshake ended; EndNone elsewhere.
	End fsm.End
	// Reset is why the kernel sent a reset with this end; 0: it sent none.
	Reset Reset
	// Minisocks of the network namespace and its limit for them
	// (net.ipv4.tcp_max_tw_buckets), with FlagCounted.
	Minisocks, MinisockLimit uint32

	// Errno is the pending error of the socket (sk_err), 0 for none.
	Errno int32
	// Family is AF_INET or AF_INET6: the socket's, not the wire's.
	Family   uint16
	Flags    Flags
	Shutdown Shutdown
	// Role is RoleUnknown also where the record does not tell it.
	Role Role

	// Snapshot is of SourceSnapshot only.
	Snapshot Snapshot
	// Wire is of SourcePackets only, and never nil there.
	Wire *Wire
}

// Wire is what packets tell of a transition that was inferred from them. It is shared
// by copies of an event, and not changed.
type Wire struct {
	// Trigger is what made the end change its state, such as "rcv FIN / snd ACK"; "" for
	// a finding that changes none.
	Trigger string
	// Judgement is what the packets show beside the edge itself, such as a finding or
	// that some were not captured. With Verdict 0 there is nothing of the kind.
	Judgement fsm.Judgement
	// ResetReceived and ResetSent say which way the reset went that ended it.
	ResetReceived, ResetSent bool
	// AtMost: the time in From is an upper bound. With FlagAtLeast it is a lower one.
	AtMost bool
	// Counted: BytesSent, BytesReceived and Retransmits are known, as far as the capture
	// tells.
	Counted bool
}

// wireCookie marks, by the upper 16 bits, identities that are not the kernel's, which
// counts from 1.
const (
	wireCookie     = 0x9293 << wireCookieBits
	wireCookieBits = 48
)

// WireCookie returns the identity of an end of a connection in a capture: the number of
// the connection, and which of its two ends it is. It is none that a kernel gives.
func WireCookie(connection uint64, second bool) uint64 {
	cookie := wireCookie | connection<<1&(1<<wireCookieBits-1)
	if second {
		cookie |= 1
	}
	return cookie
}

// IsWireCookie reports whether it is of WireCookie: the socket is inferred from packets.
func IsWireCookie(cookie uint64) bool { return cookie>>wireCookieBits == wireCookie>>wireCookieBits }

// WireConnection returns what WireCookie was given.
func WireConnection(cookie uint64) (connection uint64, second bool) {
	return cookie & (1<<wireCookieBits - 1) >> 1, cookie&1 != 0
}

// ParseCookie is the inverse of AppendCookie; 0x, or sk: as by ss -e, may stand before a
// kernel's.
func ParseCookie(text string) (uint64, error) {
	if rest, ok := strings.CutPrefix(text, "wire-"); ok && len(rest) > 1 {
		side := rest[len(rest)-1]
		n, err := strconv.ParseUint(rest[:len(rest)-1], 10, wireCookieBits-1)
		if err == nil && (side == 'a' || side == 'b') {
			return WireCookie(n, side == 'b'), nil
		}
	}
	n, err := strconv.ParseUint(strings.TrimPrefix(strings.TrimPrefix(text, "sk:"), "0x"), 16, 64)
	if err != nil || n == 0 || IsWireCookie(n) {
		return 0, fmt.Errorf("%q is no socket: want its number in hexadecimal digits, as in the column SOCKET of --wide, or of a capture, wire-12a", text)
	}
	return n, nil
}

// AppendCookie appends what names a socket in every output: a cookie of the kernel in
// hexadecimal, as ss has it; an end of a connection in a capture as wire-12a, which no
// hexadecimal number is.
func AppendCookie(b []byte, cookie uint64) []byte {
	if !IsWireCookie(cookie) {
		return strconv.AppendUint(b, cookie, 16)
	}
	b = append(b, "wire-"...)
	connection, second := WireConnection(cookie)
	b = strconv.AppendUint(b, connection, 10)
	if second {
		return append(b, 'b')
	}
	return append(b, 'a')
}

// Snapshot is what a walk over the sockets found beside their state.
type Snapshot struct {
	// Silent is the time since the last segment came, in nanoseconds; 0: not known.
	Silent uint64
	// Left is what is left on the timer of a minisock or of a handshake, in
	// nanoseconds; 0: none.
	Left uint64
	// RecvQueue is bytes that the process has not read, SendQueue bytes that the
	// peer has not acknowledged, as in ss. Of a listener: connections that wait to
	// be accepted, and how many may.
	RecvQueue, SendQueue uint32
	// Holders counts the file descriptors of processes for the socket. FD is one of
	// them, of the owner if that holds any; it means nothing where Holders is 0.
	Holders uint32
	FD      int32
	// Unanswered counts what was sent again and has not been answered: SYN,
	// SYN-ACK, data, FIN or probes of a closed window.
	Unanswered uint32
}

// Flags are what else the kernel knew about the socket at the transition, as
// enum event_flag of bpf/event.h. [fsm.Evidence] explains them.
type Flags uint16

// The flags.
const (
	FlagLocal Flags = 1 << iota
	FlagOrphan
	FlagLinger0
	FlagUnread
	FlagLinger2
	FlagPeerFIN
	FlagUnaccepted
	FlagMinisock    // a minisock took over, and is in To
	FlagSkipped     // none did, though all are followed
	FlagCounted     // Minisocks and MinisockLimit are known
	FlagEstimated   // Entered is exact to a tick of the kernel's timers
	FlagProvisional // an end by a timer, unless a record supersedes it
	FlagSupersedes  // takes a provisional end back: see Order
	FlagAtLeast     // From was entered at Entered or before
	FlagRequest     // of a handshake, which has no socket yet, though a cookie
	// FlagCountedBefore: steps of the socket since its last record were counted by the
	// kernel side, not sent.
	FlagCountedBefore
)

// Shutdown is how far a socket is with closing, as enum event_shutdown of bpf/event.h.
type Shutdown uint8

// The bits of Shutdown.
const (
	ShutdownReceiving Shutdown = 1 << iota
	ShutdownSending
	ShutdownUnacked // not all that was sent, FIN too, is acknowledged
)

// Role is which side of a connection a socket is.
type Role uint8

// The roles, as enum role of bpf/event.h. RoleUnknown: its beginning was not seen.
const (
	RoleUnknown Role = iota
	RoleActive       // it sent the SYN
	RolePassive      // a listener's
	roles
)

// String returns the name used in JSON, "" for RoleUnknown.
func (r Role) String() string { return [roles]string{"", "active", "passive"}[r] }

// Source says how a record was learnt.
type Source uint8

// The sources, as enum event_source of bpf/event.h.
const (
	SourceTracepoint Source = iota // a transition of a socket
	SourceTimeWait                 // a minisock, by its timer
	SourceRequest                  // a handshake that came to nothing, by its timer
	// SourceReset tells of a reset sent just after the socket's last transition.
	// Order gives it to that, and nobody else sees it.
	SourceReset
	// SourceSnapshot is no transition: From and To are the state in which a walk
	// over the sockets found this one.
	SourceSnapshot
	sources
)

// SourcePackets is a transition inferred from the packets of a capture. No record has
// it.
const SourcePackets Source = 1 << 7

// String returns the name used in JSON.
func (s Source) String() string {
	switch s {
	case SourceTimeWait:
		return "timewait"
	case SourceRequest:
		return "request"
	case SourceReset:
		return "reset"
	case SourceSnapshot:
		return "snapshot"
	case SourcePackets:
		return "packets"
	}
	return "tracepoint"
}

// Reset is why the kernel sent a reset: a number of ours for its enum
// sk_rst_reason, which changes from version to version. 0 is none sent.
type Reset uint8

// ResetUnspecified is a reset without a reason, or with one unknown here.
const ResetUnspecified Reset = 1

// resetNames are those of the kernel. New ones are added at the end: record
// files have the numbers.
var resetNames = [...]string{
	2: "TCP_INVALID_ACK_SEQUENCE", "TCP_RFC7323_PAWS", "TCP_TOO_OLD_ACK", "TCP_ACK_UNSENT_DATA",
	"TCP_FLAGS", "TCP_OLD_ACK", "TCP_ABORT_ON_DATA", "TCP_TIMEWAIT_SOCKET", "INVALID_SYN",
	"TCP_ABORT_ON_CLOSE", "TCP_ABORT_ON_LINGER", "TCP_ABORT_ON_MEMORY", "TCP_STATE",
	"TCP_KEEPALIVE_TIMEOUT", "TCP_DISCONNECT_WITH_DATA",
	"MPTCP_RST_EUNSPEC", "MPTCP_RST_EMPTCP", "MPTCP_RST_ERESOURCE", "MPTCP_RST_EPROHIBIT",
	"MPTCP_RST_EWQ2BIG", "MPTCP_RST_EBADPERF", "MPTCP_RST_EMIDDLEBOX", "ERROR", "NO_SOCKET",
}

// ResetNumbers returns the numbers by the kernel's names, without SK_RST_REASON_.
func ResetNumbers() map[string]uint8 {
	numbers := make(map[string]uint8, len(resetNames))
	for i, name := range resetNames {
		if name != "" {
			numbers[name] = uint8(i)
		}
	}
	return numbers
}

// String returns the kernel's name of the reason without SK_RST_REASON_, "" where
// there is none.
func (r Reset) String() string {
	if int(r) >= len(resetNames) {
		return ""
	}
	return resetNames[r]
}

// Evidence returns what a verdict can rest on.
func (e *Event) Evidence() fsm.Evidence {
	const both = ShutdownReceiving | ShutdownSending
	if e.Wire != nil {
		return fsm.Evidence{End: e.End, ResetSent: e.Wire.ResetSent, ResetReceived: e.Wire.ResetReceived}
	}
	return fsm.Evidence{
		Errno:      int(e.Errno),
		Local:      e.Flags&FlagLocal != 0,
		Orphan:     e.Flags&FlagOrphan != 0,
		Unaccepted: e.Flags&FlagUnaccepted != 0,
		ShutDown:   e.Shutdown&both == both,
		Linger0:    e.Flags&FlagLinger0 != 0,
		Linger2:    e.Flags&FlagLinger2 != 0,
		Unread:     e.Flags&FlagUnread != 0,
		PeerFIN:    e.Flags&FlagPeerFIN != 0,
		Unacked:    e.Shutdown&ShutdownUnacked != 0,

		ResetSent:   e.Reset != 0,
		ResetReason: e.Reset.String(),

		Minisock:      e.Flags&FlagMinisock != 0,
		End:           e.End,
		Skipped:       e.Flags&FlagSkipped != 0,
		Counted:       e.Flags&FlagCounted != 0,
		Minisocks:     e.Minisocks,
		MinisockLimit: e.MinisockLimit,
	}
}

// OwnerSource says where an owner was learnt.
type OwnerSource uint8

// The sources. OwnerNone, the zero value, means that there is no owner.
const (
	OwnerNone     OwnerSource = iota
	OwnerConnect              // the process was in connect
	OwnerListen               // in listen; children inherit it until their own is known
	OwnerClose                // in close or shutdown
	OwnerAccept               // in its first call on an accepted socket that was seen
	OwnerSnapshot             // it held the socket when the sockets were walked
	ownerSources
)

// String returns the name of the source, "" for OwnerNone.
func (s OwnerSource) String() string {
	switch s {
	case OwnerConnect:
		return "connect"
	case OwnerListen:
		return "listen"
	case OwnerClose:
		return "close"
	case OwnerAccept:
		return "accept"
	case OwnerSnapshot:
		return "snapshot"
	}
	return ""
}

// Owner is a process. It is known if Source is not OwnerNone.
type Owner struct {
	PID    uint32 // of the process (not the thread), as the host numbers it
	UID    uint32
	Comm   Comm
	Source OwnerSource
}

// Comm is the name a process gave itself: any bytes up to the first 0.
type Comm [16]byte

// Bytes returns the name without what pads it. It can hold anything but 0:
// escape it before showing it.
func (c *Comm) Bytes() []byte {
	for i, b := range c {
		if b == 0 {
			return c[:i]
		}
	}
	return c[:]
}

// MakeComm makes a name of a string, cut to 15 bytes as the kernel does.
func MakeComm(name string) (c Comm) {
	copy(c[:len(c)-1], name)
	return c
}

// Known reports whether the owner is known.
func (o *Owner) Known() bool { return o.Source != OwnerNone }

// HasRemote reports whether the socket has a peer, as far as is known yet: a
// listener has none, a new-born child does not know it.
func (e *Event) HasRemote() bool { return e.Remote.Port() != 0 }

// EndsPending reports whether the kernel had not yet assigned an end of the
// socket, which the next record of the socket shows: the local port in
// CLOSED→SYN_SENT, and in CLOSED→LISTEN without bind, the ends of a child in
// LISTEN→SYN_RCVD.
func (e *Event) EndsPending() bool {
	switch {
	case e.From == fsm.Closed && (e.To == fsm.SynSent || e.To == fsm.Listen):
		return e.Local.Port() == 0
	case e.From == fsm.Listen && e.To == fsm.SynRcvd:
		return !e.HasRemote()
	}
	return false
}

// Sizes of struct event and struct snapshot of bpf/event.h in bytes: a record of
// SourceSnapshot is the latter, all others are the former.
const (
	RecordSize   = 160
	SnapshotSize = 200
)

// Offsets of the fields of struct event.
const (
	offTime          = 0
	offCookie        = 8
	offEntered       = 16
	offCgroup        = 24
	offBytesAcked    = 32
	offBytesReceived = 40
	offBytesSent     = 48
	offGeneration    = 56
	offSeq           = 60
	offNetNS         = 64
	offPID           = 68
	offUID           = 72
	offSRTT          = 76
	offRetransmits   = 80
	offError         = 84
	offMinisocks     = 88
	offMinisockLimit = 92
	offLaddr         = 96
	offRaddr         = 112
	offLport         = 128
	offRport         = 130
	offFamily        = 132
	offFlags         = 134
	offFrom          = 136
	offTo            = 137
	offShutdown      = 138
	offOwnerSource   = 139
	offComm          = 140
	offSource        = 156
	offEnd           = 157
	offReset         = 158
	offRole          = 159

	offSilent     = 160
	offLeft       = 168
	offRecvQueue  = 176
	offSendQueue  = 180
	offHolders    = 184
	offFD         = 188
	offUnanswered = 192
)

// Decode reads a record in the byte order of this host into e, which it
// overwrites whole. It does not allocate and keeps no reference to b. After an
// error, e is as it was. A record that is longer than known is from a later
// version and read as far as it is known.
func (e *Event) Decode(b []byte) error {
	if len(b) < RecordSize {
		return fmt.Errorf("decode transition: %d bytes, want %d", len(b), RecordSize)
	}
	if s := b[offOwnerSource]; s >= byte(ownerSources) {
		return fmt.Errorf("decode transition: unknown owner source %d", s)
	}
	if s := b[offSource]; s >= byte(sources) {
		return fmt.Errorf("decode transition: unknown source %d", s)
	}
	if r := b[offRole]; r >= byte(roles) {
		return fmt.Errorf("decode transition: unknown role %d", r)
	}
	if Source(b[offSource]) == SourceSnapshot && len(b) < SnapshotSize {
		return fmt.Errorf("decode snapshot: %d bytes, want %d", len(b), SnapshotSize)
	}
	order := binary.NativeEndian
	*e = Event{
		Time:          order.Uint64(b[offTime:]),
		Entered:       order.Uint64(b[offEntered:]),
		Cookie:        order.Uint64(b[offCookie:]),
		Generation:    order.Uint32(b[offGeneration:]),
		Seq:           order.Uint32(b[offSeq:]),
		From:          fsm.State(b[offFrom]),
		To:            fsm.State(b[offTo]),
		Local:         addrPort(b[offLaddr:], order.Uint16(b[offLport:])),
		Remote:        addrPort(b[offRaddr:], order.Uint16(b[offRport:])),
		NetNS:         order.Uint32(b[offNetNS:]),
		Cgroup:        order.Uint64(b[offCgroup:]),
		BytesAcked:    order.Uint64(b[offBytesAcked:]),
		BytesReceived: order.Uint64(b[offBytesReceived:]),
		BytesSent:     order.Uint64(b[offBytesSent:]),
		SRTT:          order.Uint32(b[offSRTT:]),
		Retransmits:   order.Uint32(b[offRetransmits:]),
		Errno:         int32(order.Uint32(b[offError:])),
		Family:        order.Uint16(b[offFamily:]),
		Flags:         Flags(order.Uint16(b[offFlags:])),
		Shutdown:      Shutdown(b[offShutdown]),
		Role:          Role(b[offRole]),
		Source:        Source(b[offSource]),
		End:           fsm.End(b[offEnd]),
		Reset:         Reset(b[offReset]),
		Minisocks:     order.Uint32(b[offMinisocks:]),
		MinisockLimit: order.Uint32(b[offMinisockLimit:]),
	}
	if s := OwnerSource(b[offOwnerSource]); s != OwnerNone {
		e.Owner = Owner{
			PID:    order.Uint32(b[offPID:]),
			UID:    order.Uint32(b[offUID:]),
			Comm:   Comm(b[offComm:]),
			Source: s,
		}
	}
	if e.Source == SourceSnapshot {
		e.Snapshot = Snapshot{
			Silent:     order.Uint64(b[offSilent:]),
			Left:       order.Uint64(b[offLeft:]),
			RecvQueue:  order.Uint32(b[offRecvQueue:]),
			SendQueue:  order.Uint32(b[offSendQueue:]),
			Holders:    order.Uint32(b[offHolders:]),
			FD:         int32(order.Uint32(b[offFD:])),
			Unanswered: order.Uint32(b[offUnanswered:]),
		}
	}
	return nil
}

// AppendRecord appends the record that Decode reads.
func (e *Event) AppendRecord(b []byte) []byte {
	var r [SnapshotSize]byte
	order := binary.NativeEndian
	order.PutUint64(r[offTime:], e.Time)
	order.PutUint64(r[offCookie:], e.Cookie)
	order.PutUint64(r[offEntered:], e.Entered)
	order.PutUint64(r[offCgroup:], e.Cgroup)
	order.PutUint64(r[offBytesAcked:], e.BytesAcked)
	order.PutUint64(r[offBytesReceived:], e.BytesReceived)
	order.PutUint64(r[offBytesSent:], e.BytesSent)
	order.PutUint32(r[offGeneration:], e.Generation)
	order.PutUint32(r[offSeq:], e.Seq)
	order.PutUint32(r[offNetNS:], e.NetNS)
	order.PutUint32(r[offPID:], e.Owner.PID)
	order.PutUint32(r[offUID:], e.Owner.UID)
	order.PutUint32(r[offSRTT:], e.SRTT)
	order.PutUint32(r[offRetransmits:], e.Retransmits)
	order.PutUint32(r[offError:], uint32(e.Errno))
	local, remote := e.Local.Addr().As16(), e.Remote.Addr().As16()
	copy(r[offLaddr:], local[:])
	copy(r[offRaddr:], remote[:])
	order.PutUint16(r[offLport:], e.Local.Port())
	order.PutUint16(r[offRport:], e.Remote.Port())
	order.PutUint16(r[offFamily:], e.Family)
	order.PutUint16(r[offFlags:], uint16(e.Flags))
	r[offFrom] = byte(e.From)
	r[offTo] = byte(e.To)
	r[offShutdown] = byte(e.Shutdown)
	r[offRole] = byte(e.Role)
	r[offOwnerSource] = byte(e.Owner.Source)
	copy(r[offComm:], e.Owner.Comm[:])
	r[offSource] = byte(e.Source)
	r[offEnd] = byte(e.End)
	r[offReset] = byte(e.Reset)
	order.PutUint32(r[offMinisocks:], e.Minisocks)
	order.PutUint32(r[offMinisockLimit:], e.MinisockLimit)
	if e.Source != SourceSnapshot {
		return append(b, r[:RecordSize]...)
	}
	order.PutUint64(r[offSilent:], e.Snapshot.Silent)
	order.PutUint64(r[offLeft:], e.Snapshot.Left)
	order.PutUint32(r[offRecvQueue:], e.Snapshot.RecvQueue)
	order.PutUint32(r[offSendQueue:], e.Snapshot.SendQueue)
	order.PutUint32(r[offHolders:], e.Snapshot.Holders)
	order.PutUint32(r[offFD:], uint32(e.Snapshot.FD))
	order.PutUint32(r[offUnanswered:], e.Snapshot.Unanswered)
	return append(b, r[:]...)
}

func addrPort(b []byte, port uint16) netip.AddrPort {
	return netip.AddrPortFrom(netip.AddrFrom16([16]byte(b)).Unmap(), port)
}

// swapped lists the fields of struct event that have a byte order.
var swapped = [...]struct{ offset, size int }{
	{offTime, 8}, {offCookie, 8}, {offEntered, 8}, {offCgroup, 8}, {offBytesAcked, 8}, {offBytesReceived, 8}, {offBytesSent, 8},
	{offGeneration, 4}, {offSeq, 4}, {offNetNS, 4}, {offPID, 4}, {offUID, 4}, {offSRTT, 4}, {offRetransmits, 4}, {offError, 4},
	{offMinisocks, 4}, {offMinisockLimit, 4},
	{offLport, 2}, {offRport, 2}, {offFamily, 2}, {offFlags, 2},
	// Of a snapshot only.
	{offSilent, 8}, {offLeft, 8}, {offRecvQueue, 4}, {offSendQueue, 4}, {offHolders, 4}, {offFD, 4}, {offUnanswered, 4},
}

// SwapRecord turns a record of a host of the other byte order, in place, into
// one that Decode understands. Too short a record is left as it is.
func SwapRecord(b []byte) {
	if len(b) < RecordSize {
		return
	}
	for _, f := range swapped {
		if f.offset >= RecordSize && (Source(b[offSource]) != SourceSnapshot || len(b) < SnapshotSize) {
			break
		}
		field := b[f.offset : f.offset+f.size]
		for i, j := 0, len(field)-1; i < j; i, j = i+1, j-1 {
			field[i], field[j] = field[j], field[i]
		}
	}
}

// LossReason says why records, or what belongs into them, are missing.
type LossReason uint8

// The reasons.
const (
	// LossRingFull: the ring buffer had no room, the reader was behind.
	LossRingFull LossReason = iota + 1
	// LossHistory: the kernel had no memory for a socket's history; the record
	// came without sequence, owner and entry time.
	LossHistory
	// LossMissed: the kernel passed transitions over that interrupted the
	// program.
	LossMissed
	// LossMinisocks: there was no room to follow a minisock, of any socket of
	// the host. Its TIME_WAIT is not measured.
	LossMinisocks
)

var lossNames = [...]string{
	LossRingFull: "ringbuf_full", LossHistory: "history_unavailable", LossMissed: "missed",
	LossMinisocks: "minisocks_full",
}

// Records reports whether it is transitions that are missing, not only a part of
// what there is to know of them.
func (r LossReason) Records() bool { return r == LossRingFull || r == LossMissed }

// String returns the name used in JSON.
func (r LossReason) String() string {
	if r == 0 || int(r) >= len(lossNames) {
		return fmt.Sprintf("loss_%d", uint8(r))
	}
	return lossNames[r]
}

// Loss says that records were lost since the last Loss of the same reason.
type Loss struct {
	Time   uint64 // when it was noticed, as Event.Time
	Reason LossReason
	Count  uint64
}

// Kind tells what a [Record] holds.
type Kind uint8

// The kinds.
const (
	KindTransition Kind = iota + 1 // Record.Event, which may be a snapshot
	KindLoss                       // Record.Loss
	KindIdle                       // nothing more for now: a time to flush
	KindWalked                     // Record.Walked
	KindName                       // Record.Name
	KindClock                      // Record.Clock
	// KindGone: the socket of Record.Event, by its identity, is over, though nothing shows
	// when that was.
	KindGone
)

// Record is what a source of records, live or file, delivers.
type Record struct {
	Kind   Kind
	Event  Event
	Loss   Loss
	Walked Walked
	Name   Name
	Clock  ClockStep
	// Until is of KindIdle: what came before that time, as Event.Time, has been
	// delivered; 0 where that is not known.
	Until uint64
}

// Walked says that a walk over the sockets of the host is over: what it found, as
// records of SourceSnapshot, lies between Start and Time.
type Walked struct {
	Start, Time uint64 // as Event.Time
	// Failed: it broke off, and has not seen all that it can.
	Failed bool
	// Skipped are the inodes of network namespaces that it could not enter.
	Skipped []uint32
	// Unseen says in words of what it could not find the sockets, and why; "" if it
	// found all.
	Unseen string
}

// NameKind says what a [Name] names.
type NameKind uint8

// The kinds.
const (
	NameCgroup NameKind = iota + 1 // a cgroup, by its id: its path, from the root of the hierarchy
	NameExe                        // a process, by its PID: the file that it executes
)

// Name gives what the records have as a number a name, in good time before the
// first record that needs it. A later one for the same number replaces it.
type Name struct {
	Kind NameKind
	ID   uint64
	Text string
}
