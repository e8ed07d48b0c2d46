// Command runtime is what a test asks a real containerd with: as a kubelet does it makes pods and containers. It is also
// all that runs in them.
//
//	runtime import SOCKET                     makes an image of this program, which pods and containers are made of
//	runtime pod SOCKET NAMESPACE NAME UID [KEY=VALUE...]
//	                                          makes a sandbox; prints its id, how long that took, and its addresses
//	runtime run SOCKET ID WORD...             runs this program with these words in a container of that sandbox, and
//	                                          ends with its exit code
//	runtime end SOCKET ID                     ends a sandbox and removes it
//	runtime supervise SOCKET COMMAND...       runs a command that can be ended and started through a socket
//	runtime order SOCKET stop|start           tells it so
//
// In containers:
//
//	runtime pause                             until it is ended
//	runtime connect ADDRESS:PORT DURATION     whether a connection is made in that time: exit code 0, or 1
package main

import (
	"fmt"
	"net"
	"os"
	"os/signal"
	"syscall"
	"time"
)

func main() {
	if len(os.Args) < 2 {
		usage()
	}
	words := os.Args[2:]
	switch os.Args[1] {
	case "pause":
		ended := make(chan os.Signal, 1)
		signal.Notify(ended, syscall.SIGTERM, syscall.SIGINT)
		<-ended
	case "connect":
		connect(arguments(words, 2))
	case "import":
		check(importSelf(arguments(words, 1)[0]))
	case "pod":
		check(runPod(arguments(words, 4)))
	case "run":
		code, err := runContainer(arguments(words, 3))
		check(err)
		os.Exit(code)
	case "supervise":
		check(supervise(arguments(words, 2)))
	case "order":
		check(order(arguments(words, 2)))
	case "end":
		check(endPod(arguments(words, 2)))
	default:
		usage()
	}
}

func connect(words []string) {
	patience, err := time.ParseDuration(words[1])
	check(err)
	connection, err := net.DialTimeout("tcp", words[0], patience)
	if err != nil {
		os.Exit(1)
	}
	check(connection.Close())
}

// At least so many, or the usage.
func arguments(words []string, count int) []string {
	if len(words) < count {
		usage()
	}
	return words
}

func usage() {
	fmt.Fprintln(os.Stderr, "usage: runtime import|pod|run|end|supervise|order|pause|connect ... (see main.go)")
	os.Exit(2)
}

func check(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, "runtime:", err)
		os.Exit(3)
	}
}
