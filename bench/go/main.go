// An ext_proc server in Go that assigns as abmesh does: what abmesh's own server is compared with.
//
// It is what one would write with grpc-go for speed: messages stay bytes (a raw codec), protobuf is read by hand without
// copies, and every answer is built once, at the start. It counts what abmesh's server counts, but has no endpoint that
// tells; it does not watch its document, and knows no events. abmesh's server does all that.
package main

import (
	"bufio"
	"bytes"
	"encoding/hex"
	"flag"
	"fmt"
	"io"
	"log"
	"math/bits"
	"net"
	"os"
	"os/signal"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/golang/protobuf/proto"
	"google.golang.org/grpc"
	"google.golang.org/grpc/encoding"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
)

const service = "envoy.service.ext_proc.v3.ExternalProcessor"

// codec leaves our messages as they are, and treats the health service's as usual.
type codec struct{}

func (codec) Name() string { return "proto" }

func (codec) Marshal(v interface{}) ([]byte, error) {
	if raw, ok := v.(*[]byte); ok {
		return *raw, nil
	}
	return proto.Marshal(v.(proto.Message))
}

func (codec) Unmarshal(data []byte, v interface{}) error {
	if raw, ok := v.(*[]byte); ok {
		*raw = data
		return nil
	}
	return proto.Unmarshal(data, v.(proto.Message))
}

type server struct {
	config *config
	wanted map[string]string
	others uint64     // requests of no experiment
	took   [64]uint64 // messages by the logarithm of the nanoseconds that they took
}

func newServer(made *config) *server {
	wanted := map[string]string{}
	for _, name := range []string{":path", "cookie", "x-forwarded-proto"} {
		wanted[name] = name
	}
	for _, e := range made.Experiments {
		for _, unit := range e.Units {
			if unit.Kind == "header" {
				wanted[unit.Name] = unit.Name
			}
		}
		for _, o := range e.Overrides {
			for name := range o.Header {
				wanted[name] = name
			}
		}
		if e.SegmentHeader != "" {
			wanted[e.SegmentHeader] = e.SegmentHeader
		}
	}
	return &server{config: made, wanted: wanted}
}

var requests = sync.Pool{New: func() interface{} { return new(request) }}

// answer returns nil where the stream is to be closed, and whether nothing more will be asked.
func (s *server) answer(message []byte) (answer []byte, last bool) {
	started := time.Now()
	defer func() { atomic.AddUint64(&s.took[bits.Len64(uint64(time.Since(started)))], 1) }()
	r := requests.Get().(*request)
	defer requests.Put(r)
	if !r.read(message, s.wanted) {
		return nil, true
	}
	if r.kind != requestHeaders {
		return unchanged[r.kind], false
	}
	path := pathOf(r.first(":path"))
	for i := range s.config.Experiments {
		e := &s.config.Experiments[i]
		if bytes.HasPrefix(path, []byte(e.PathPrefix)) {
			return e.assign(r), r.decides
		}
	}
	atomic.AddUint64(&s.others, 1)
	return untouched, r.decides
}

func process(srv interface{}, stream grpc.ServerStream) error {
	s := srv.(*server)
	for {
		var message []byte
		if err := stream.RecvMsg(&message); err != nil {
			if err == io.EOF {
				return nil
			}
			return err
		}
		answer, last := s.answer(message)
		if answer == nil {
			return nil
		}
		if err := stream.SendMsg(&answer); err != nil {
			return err
		}
		if last {
			return nil
		}
	}
}

var description = grpc.ServiceDesc{
	ServiceName: service,
	HandlerType: (*interface{})(nil),
	Streams: []grpc.StreamDesc{
		{StreamName: "Process", Handler: process, ServerStreams: true, ClientStreams: true},
	},
}

func serve(s *server, address string, streamWorkers uint) error {
	encoding.RegisterCodec(codec{})
	listener, err := net.Listen("tcp", address)
	if err != nil {
		return err
	}
	var options []grpc.ServerOption
	if streamWorkers > 0 {
		options = append(options, grpc.NumStreamWorkers(uint32(streamWorkers)))
	}
	made := grpc.NewServer(options...)
	made.RegisterService(&description, s)
	healthpb.RegisterHealthServer(made, health.NewServer()) // "" is serving from the start
	ended := make(chan os.Signal, 1)
	signal.Notify(ended, syscall.SIGTERM, syscall.SIGINT)
	go func() {
		<-ended
		for i := range s.config.Experiments {
			log.Print(s.config.Experiments[i].Name, s.config.Experiments[i].counted)
		}
		log.Print("others ", s.others, " took ", s.took)
		made.Stop()
	}()
	return made.Serve(listener)
}

// lines answers each line of standard input with one line.
func lines(f func(line string) string) {
	in := bufio.NewScanner(os.Stdin)
	in.Buffer(nil, 1<<20)
	out := bufio.NewWriter(os.Stdout)
	defer out.Flush()
	for in.Scan() {
		fmt.Fprintln(out, f(in.Text()))
	}
}

func main() {
	listen := flag.String("listen", "127.0.0.1:50052", "address")
	path := flag.String("config", "", "file that bench/go_server.py writes")
	streamWorkers := flag.Uint("stream-workers", 0, "goroutines that are kept for streams")
	what := flag.String("answer", "", "instead of serving, answer standard input: \"messages\" in hex, or \"buckets\" of salt, tab, unit")
	flag.Parse()
	if *what == "buckets" {
		lines(func(line string) string {
			parts := strings.SplitN(line, "\t", 2)
			return fmt.Sprint(bucketOf([]byte(parts[0]+":"), []byte(parts[1])))
		})
		return
	}
	made, err := load(*path)
	if err != nil {
		log.Fatal(err)
	}
	s := newServer(made)
	if *what == "messages" {
		lines(func(line string) string {
			message, err := hex.DecodeString(line)
			if err != nil {
				log.Fatal(err)
			}
			answer, last := s.answer(message)
			return fmt.Sprintf("%x %t", answer, last)
		})
		return
	}
	if err := serve(s, *listen, *streamWorkers); err != nil {
		log.Fatal(err)
	}
}
