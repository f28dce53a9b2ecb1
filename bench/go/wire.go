package main

// Envoy's external-processing messages, read and written by hand: only the fields that are needed, and no copies.

import (
	"bytes"
	"strconv"

	"github.com/cespare/xxhash"
	"google.golang.org/protobuf/encoding/protowire"
)

const (
	// of ProcessingRequest
	requestHeaders    = 2
	responseHeaders   = 3
	responseTrailers  = 7
	observabilityMode = 10
	protocolConfig    = 11
	// of ProcessingResponse
	dynamicMetadata = 8

	overwriteOrAdd = 2
)

type header struct {
	name, value string
}

type seen struct {
	name  string
	value []byte // part of the message
}

// request is what a message is about, used again and again; kind is the number of its field, 0 where there is none that we know.
type request struct {
	kind     protowire.Number
	observed bool
	decides  bool
	headers  []seen
	room     [12]seen
}

func (r *request) first(name string) []byte {
	for i := range r.headers {
		if r.headers[i].name == name {
			return r.headers[i].value
		}
	}
	return nil
}

// joined is a header's value, repeated ones joined with commas; nil if it is absent.
func (r *request) joined(name string) []byte {
	var found []byte
	for i := range r.headers {
		if r.headers[i].name != name {
			continue
		}
		if found == nil {
			found = r.headers[i].value
		} else {
			found = bytes.Join([][]byte{found, r.headers[i].value}, []byte(","))
		}
	}
	return found
}

// fields calls f with every field of a message: the content of a length-delimited one, the number of a varint.
func fields(message []byte, f func(number protowire.Number, content []byte, value uint64) bool) bool {
	for len(message) > 0 {
		number, kind, n := protowire.ConsumeTag(message)
		if n < 0 {
			return false
		}
		message = message[n:]
		var content []byte
		var value uint64
		switch kind {
		case protowire.BytesType:
			content, n = protowire.ConsumeBytes(message)
		case protowire.VarintType:
			value, n = protowire.ConsumeVarint(message)
		default:
			n = protowire.ConsumeFieldValue(number, kind, message)
		}
		if n < 0 || !f(number, content, value) {
			return false
		}
		message = message[n:]
	}
	return true
}

// read parses a message; wanted has the names of the headers to keep.
func (r *request) read(message []byte, wanted map[string]string) bool {
	r.kind, r.observed, r.decides, r.headers = 0, false, false, r.room[:0]
	return fields(message, func(number protowire.Number, content []byte, value uint64) bool {
		switch {
		case number == requestHeaders:
			r.kind = number
			return r.readHeaders(content, wanted)
		case number > requestHeaders && number <= responseTrailers:
			r.kind = number
		case number == observabilityMode:
			r.observed = value != 0
		case number == protocolConfig:
			r.decides = true
			return fields(content, func(_ protowire.Number, _ []byte, mode uint64) bool {
				r.decides = r.decides && mode == 0
				return true
			})
		}
		return true
	})
}

func (r *request) readHeaders(content []byte, wanted map[string]string) bool {
	return fields(content, func(number protowire.Number, headers []byte, _ uint64) bool {
		if number != 1 {
			return true
		}
		return fields(headers, func(_ protowire.Number, one []byte, _ uint64) bool {
			var key, text, raw []byte
			ok := fields(one, func(number protowire.Number, part []byte, _ uint64) bool {
				switch number {
				case 1:
					key = part
				case 2:
					text = part
				case 3:
					raw = part
				}
				return true
			})
			if name, found := wanted[string(key)]; found {
				if len(raw) == 0 {
					raw = text
				}
				r.headers = append(r.headers, seen{name, raw})
			}
			return ok
		})
	})
}

func message(to []byte, number protowire.Number, content []byte) []byte {
	return protowire.AppendBytes(protowire.AppendTag(to, number, protowire.BytesType), content)
}

func number(to []byte, field protowire.Number, value uint64) []byte {
	return protowire.AppendVarint(protowire.AppendTag(to, field, protowire.VarintType), value)
}

func headersSet(headers []header, chooseRoute bool) []byte {
	var mutation, common []byte
	for _, one := range headers {
		value := message(message(nil, 1, []byte(one.name)), 3, []byte(one.value))
		mutation = message(mutation, 1, number(message(nil, 1, value), 3, overwriteOrAdd))
	}
	if len(headers) > 0 {
		common = message(common, 2, mutation)
	}
	if chooseRoute {
		common = number(common, 5, 1)
	}
	return message(nil, 1, message(nil, 1, common))
}

// unchanged are the answers that change nothing, by the kind of the message.
var unchanged = map[protowire.Number][]byte{
	requestHeaders:   headersSet(nil, false),
	responseHeaders:  message(nil, 2, message(nil, 1, nil)),
	4:                message(nil, 3, message(nil, 1, nil)),
	5:                message(nil, 4, message(nil, 1, nil)),
	6:                message(nil, 5, message(nil, 1, nil)),
	responseTrailers: message(nil, 6, message(nil, 1, nil)),
}

var untouched = unchanged[requestHeaders]

func (e *experiment) answer(variant, slice, segment int) []byte {
	found := e.Variants[variant]
	said := []header{
		{"x-model-version", found.Name},
		{"x-ab-experiment", e.Name},
		{"x-ab-place", strconv.FormatUint(firstPlace+xxhash.Sum64String(e.Name+"/"+found.Name)%places, 10)},
		{"x-ab-reason", "assigned"},
	}
	if slice != noSlice {
		said = append(said, header{"x-ab-slice", strconv.Itoa(slice)})
		said = append(said, header{"x-ab-group", strconv.Itoa(slice * groups / e.Slices)})
	}
	if e.SegmentHeader != "" {
		name := "other"
		if segment < len(e.Segments) {
			name = e.Segments[segment]
		}
		said = append(said, header{"x-ab-segment", name})
	}
	if found.TimeoutMs > 0 {
		said = append(said, header{"x-envoy-upstream-rq-timeout-ms", strconv.Itoa(found.TimeoutMs)})
	}
	return headersSet(said, true)
}

// cookieMetadata is the Struct {"abmesh": {"set_cookie": cookie}} as dynamic metadata.
func cookieMetadata(cookie string) []byte {
	text := message(nil, 3, []byte(cookie))
	inner := message(nil, 1, message(message(nil, 1, []byte("set_cookie")), 2, text))
	outer := message(nil, 1, message(message(nil, 1, []byte("abmesh")), 2, message(nil, 5, inner)))
	return message(nil, dynamicMetadata, outer)
}
