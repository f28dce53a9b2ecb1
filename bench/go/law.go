package main

// The assignment law (docs/assignment.md), and what one experiment does with a request.

import (
	"bytes"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"os"
	"sync/atomic"

	"github.com/cespare/xxhash"
)

const (
	buckets = 10000
	// Places: docs/assignment.md
	firstPlace = 4290000000
	places     = 4967295
	groups     = 10
	noSlice    = -1
)

// config is what bench/go_server.py writes: an experiments document in the terms of this program.
type config struct {
	Experiments []experiment
}

type variant struct {
	Name      string
	TimeoutMs int // 0: none
	Ranges    [][2]int
}

type source struct {
	Kind string // header, cookie or query
	Name string
}

type override struct {
	Header  map[string]string
	Variant int
}

type experiment struct {
	Name             string
	Salt             string
	PathPrefix       string
	Units            []source
	Variants         []variant
	Overrides        []override
	SegmentHeader    string // empty: no segments
	Segments         []string
	Slices           int
	Cookie           string // empty: none is issued
	CookieAttributes string
	SecureAuto       bool

	places  [buckets]place
	counted [][reasons]uint64 // by variant
	salted  []byte            // the salt and its colon
	answers [][][]byte        // by variant and slice (the last: none), then by segment (the last: other)
	issued  []byte
}

// Why a request got what it got; those of units are as the document's sources name them.
const (
	byOverride = iota
	byHeader
	byCookie
	byQuery
	byIssue
	reasons
)

type place struct {
	variant, slice uint16
}

func load(path string) (*config, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	made := &config{}
	if err := json.Unmarshal(text, made); err != nil {
		return nil, err
	}
	for i := range made.Experiments {
		made.Experiments[i].compile()
	}
	return made, nil
}

func bucketOf(salted, unit []byte) uint64 {
	var room [256]byte // the hash of one piece needs no state; longer units take the heap
	return xxhash.Sum64(append(append(room[:0], salted...), unit...)) % buckets
}

func (e *experiment) compile() {
	e.salted = []byte(e.Salt + ":")
	for v, found := range e.Variants {
		width, position := 0, 0
		for _, part := range found.Ranges {
			width += part[1] - part[0]
		}
		for _, part := range found.Ranges {
			for bucket := part[0]; bucket < part[1]; bucket++ {
				e.places[bucket] = place{uint16(v), uint16(position * e.Slices / width)}
				position++
			}
		}
	}
	e.counted = make([][reasons]uint64, len(e.Variants))
	e.issued = headersSet([]header{{"x-ab-issued", "1"}}, false)
	for v := range e.Variants {
		for slice := 0; slice <= e.Slices; slice++ {
			given := slice
			if slice == e.Slices {
				given = noSlice
			}
			var row [][]byte
			for segment := 0; segment <= len(e.Segments); segment++ {
				row = append(row, e.answer(v, given, segment))
			}
			e.answers = append(e.answers, row)
		}
	}
}

func (e *experiment) assigned(reason, variant, slice, segment int) []byte {
	atomic.AddUint64(&e.counted[variant][reason], 1)
	if slice == noSlice {
		slice = e.Slices
	}
	return e.answers[variant*(e.Slices+1)+slice][segment]
}

// assign returns the answer to a request of this experiment.
func (e *experiment) assign(r *request) []byte {
	segment := e.segmentOf(r)
	for i := range e.Overrides {
		if e.Overrides[i].holds(r) {
			return e.assigned(byOverride, e.Overrides[i].Variant, noSlice, segment)
		}
	}
	if unit, reason := e.unitOf(r); len(unit) > 0 {
		found := e.places[bucketOf(e.salted, unit)]
		return e.assigned(reason, int(found.variant), int(found.slice), segment)
	}
	if e.Cookie == "" {
		return untouched
	}
	var random [16]byte
	if _, err := rand.Read(random[:]); err != nil {
		return untouched
	}
	fresh := hex.EncodeToString(random[:])
	found := e.places[bucketOf(e.salted, []byte(fresh))]
	cookie := e.Cookie + "=" + fresh + e.CookieAttributes
	if e.SecureAuto && bytes.EqualFold(trim(r.first("x-forwarded-proto")), []byte("https")) {
		cookie += "; Secure"
	}
	answer := append([]byte(nil), e.assigned(byIssue, int(found.variant), int(found.slice), segment)...)
	return append(append(answer, e.issued...), cookieMetadata(cookie)...)
}

func (e *experiment) segmentOf(r *request) int {
	if e.SegmentHeader != "" {
		value := r.joined(e.SegmentHeader)
		for i, name := range e.Segments {
			if string(value) == name {
				return i
			}
		}
	}
	return len(e.Segments)
}

func (o *override) holds(r *request) bool {
	for name, value := range o.Header {
		if found := r.joined(name); found == nil || string(found) != value {
			return false
		}
	}
	return true
}

// unitOf is the first unit that is present and not empty, and where it was found.
func (e *experiment) unitOf(r *request) ([]byte, int) {
	for i := range e.Units {
		unit := &e.Units[i]
		at, reason := unit.Name, byHeader
		switch unit.Kind {
		case "cookie":
			at, reason = "cookie", byCookie
		case "query":
			at, reason = ":path", byQuery
		}
		for j := range r.headers {
			if r.headers[j].name != at {
				continue
			}
			value := r.headers[j].value
			switch reason {
			case byCookie:
				value = cookieOf(value, unit.Name)
			case byQuery:
				value = parameterOf(value, unit.Name)
			default:
				value = trim(value)
			}
			if len(value) > 0 {
				return value, reason
			}
		}
	}
	return nil, byHeader
}

func trim(value []byte) []byte { return bytes.Trim(value, " \t") }

func cookieOf(header []byte, name string) []byte {
	for len(header) > 0 {
		part := header
		if end := bytes.IndexByte(header, ';'); end >= 0 {
			part, header = header[:end], header[end+1:]
		} else {
			header = nil
		}
		if equals := bytes.IndexByte(part, '='); equals >= 0 && string(trim(part[:equals])) == name {
			if value := trim(part[equals+1:]); len(value) > 0 {
				return value
			}
		}
	}
	return nil
}

func pathOf(target []byte) []byte {
	if end := bytes.IndexAny(target, "?#"); end >= 0 {
		return target[:end]
	}
	return target
}

// parameterOf is a query parameter's first value that is not empty, decoded; broken escapes stay as they are.
func parameterOf(target []byte, name string) []byte {
	if end := bytes.IndexByte(target, '#'); end >= 0 {
		target = target[:end]
	}
	start := bytes.IndexByte(target, '?')
	if start < 0 {
		return nil
	}
	for query := target[start+1:]; len(query) > 0; {
		part := query
		if end := bytes.IndexByte(query, '&'); end >= 0 {
			part, query = query[:end], query[end+1:]
		} else {
			query = nil
		}
		if len(part) > len(name)+1 && part[len(name)] == '=' && string(part[:len(name)]) == name {
			return unescaped(part[len(name)+1:])
		}
	}
	return nil
}

func unescaped(text []byte) []byte {
	if bytes.IndexAny(text, "%+") < 0 {
		return text
	}
	made := make([]byte, 0, len(text))
	for i := 0; i < len(text); i++ {
		var one [1]byte
		switch {
		case text[i] == '+':
			made = append(made, ' ')
		case text[i] == '%' && i+2 < len(text):
			if _, err := hex.Decode(one[:], text[i+1:i+3]); err != nil {
				made = append(made, '%')
				continue
			}
			made = append(made, one[0])
			i += 2
		default:
			made = append(made, text[i])
		}
	}
	return made
}
