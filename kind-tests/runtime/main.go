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
//	runtime connect ADDRESS:PORT              whether the first packet of a connection is answered: exit code 0, or 1
package main

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/signal"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
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
		connect(arguments(words, 1)[0])
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

// Where others have the CPU an answer comes late, so what was lost is known by the kernel's having sent it again.
func connect(address string) {
	to, err := netip.ParseAddrPort(address)
	check(err)
	socket, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	check(err)
	err = unix.Connect(socket, &unix.SockaddrInet4{Port: int(to.Port()), Addr: to.Addr().As4()})
	if err != nil && !errors.Is(err, unix.EINPROGRESS) {
		os.Exit(1)
	}
	for deadline := time.Now().Add(30 * time.Second); time.Now().Before(deadline); {
		fds := []unix.PollFd{{Fd: int32(socket), Events: unix.POLLOUT}}
		_, err := unix.Poll(fds, 20)
		if !errors.Is(err, unix.EINTR) {
			check(err)
		}
		information, err := unix.GetsockoptTCPInfo(socket, unix.IPPROTO_TCP, unix.TCP_INFO)
		check(err)
		if information.Total_retrans > 0 || fds[0].Revents&(unix.POLLERR|unix.POLLHUP) != 0 {
			os.Exit(1)
		}
		if fds[0].Revents&unix.POLLOUT != 0 {
			return
		}
	}
	check(fmt.Errorf("%s neither answers nor is asked again", address))
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
