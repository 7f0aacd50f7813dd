package output

import (
	"unicode"
	"unicode/utf8"
)

const hex = "0123456789abcdef"

// AppendEscaped appends bytes that a process chose, so that they cannot steer
// the terminal or forge a row: what does not print becomes \xNN or \u{NNNN},
// a backslash is doubled.
func AppendEscaped(b, text []byte) []byte {
	for len(text) > 0 {
		r, size := utf8.DecodeRune(text)
		switch {
		case r == utf8.RuneError && size == 1, r < utf8.RuneSelf && !unicode.IsPrint(r):
			b = append(b, '\\', 'x', hex[text[0]>>4], hex[text[0]&15])
		case r == '\\':
			b = append(b, '\\', '\\')
		case !unicode.IsPrint(r):
			b = append(b, '\\', 'u', '{')
			b = appendHex(b, uint32(r))
			b = append(b, '}')
		default:
			b = append(b, text[:size]...)
		}
		text = text[size:]
	}
	return b
}

// AppendJSONString appends the bytes as a JSON string. Invalid UTF-8 becomes
// U+FFFD, as JSON cannot say it; what does not print is escaped, as people do
// look at JSON in terminals.
func AppendJSONString[T string | []byte](b []byte, text T) []byte {
	b = append(b, '"')
	plain := 0
	for plain < len(text) && isPlain(text[plain]) {
		plain++
	}
	b = append(b, text[:plain]...)
	for _, r := range string(text[plain:]) {
		switch {
		case r == '"' || r == '\\':
			b = append(b, '\\', byte(r))
		case unicode.IsPrint(r):
			b = utf8.AppendRune(b, r)
		case r > 0xffff:
			r -= 0x10000
			b = appendUnicode(appendUnicode(b, 0xd800+r>>10), 0xdc00+r&0x3ff)
		default:
			b = appendUnicode(b, r)
		}
	}
	return append(b, '"')
}

// isPlain reports whether the byte stands for itself in a JSON string, as nearly all do.
func isPlain(c byte) bool { return c >= ' ' && c <= '~' && c != '"' && c != '\\' }

func appendUnicode(b []byte, r rune) []byte {
	return append(b, '\\', 'u', hex[r>>12&15], hex[r>>8&15], hex[r>>4&15], hex[r&15])
}

func appendHex(b []byte, n uint32) []byte {
	shift := 28
	for shift > 0 && n>>shift&15 == 0 {
		shift -= 4
	}
	for ; shift >= 0; shift -= 4 {
		b = append(b, hex[n>>shift&15])
	}
	return b
}
