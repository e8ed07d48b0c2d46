package main

import (
	"bufio"
	"fmt"
	"net"
	"os"
	"os/exec"
	"syscall"
)

// The first process of a namespace: runs a command, and ends and starts it when it is told to on a socket (a line "stop"
// or "start"; each is answered). Whatever else the namespace holds goes on meanwhile, and ends with this process.
// words: SOCKET COMMAND...
func supervise(words []string) error {
	listener, err := net.Listen("unix", words[0])
	if err != nil {
		return err
	}
	orders := make(chan net.Conn)
	go func() {
		for {
			connection, err := listener.Accept()
			if err != nil {
				return
			}
			orders <- connection
		}
	}()
	command, err := start(words[1:])
	if err != nil {
		return err
	}
	for connection := range orders {
		order, _ := bufio.NewReader(connection).ReadString('\n')
		switch order {
		case "stop\n":
			command.Process.Kill()
			// Its orphans are ours, and are left alone.
			command.Wait()
		case "start\n":
			if command, err = start(words[1:]); err != nil {
				return err
			}
		}
		fmt.Fprintln(connection, "done")
		connection.Close()
	}
	return nil
}

// words: SOCKET ORDER
func order(words []string) error {
	connection, err := net.Dial("unix", words[0])
	if err != nil {
		return err
	}
	defer connection.Close()
	fmt.Fprintln(connection, words[1])
	_, err = bufio.NewReader(connection).ReadString('\n')
	return err
}

func start(words []string) (*exec.Cmd, error) {
	command := exec.Command(words[0], words[1:]...)
	command.Stdout, command.Stderr = os.Stdout, os.Stderr
	command.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	return command, command.Start()
}
