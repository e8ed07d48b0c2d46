package main

import (
	"context"
	"fmt"
	"io"
	"runtime"

	"golang.org/x/sys/unix"
	"k8s.io/klog/v2"
)

// dieWithParent asks the kernel to kill this process when its parent ends, so
// that a harness that is killed leaves no control plane behind.
//
// The kernel keeps the request per thread. It stays in force only while that
// thread lives, so the calling goroutine is locked to its thread for good; call
// this from the main goroutine, which lives as long as the process.
//
// Likewise the kernel watches the thread of the parent that started this
// process: a parent which ends that thread early ends the control plane too.
func dieWithParent() error {
	runtime.LockOSThread()
	if err := unix.Prctl(unix.PR_SET_PDEATHSIG, uintptr(unix.SIGKILL), 0, 0, 0); err != nil {
		return fmt.Errorf("asking to die with the parent process: %w", err)
	}
	return nil
}

// cancelOnEOF calls cancel when input ends. Data before the end is ignored.
func cancelOnEOF(input io.Reader, cancel context.CancelCauseFunc) {
	go func() {
		if _, err := io.Copy(io.Discard, input); err != nil {
			klog.Errorf("Reading stdin failed, taking it as its end: %v", err)
		}
		cancel(errStdinClosed)
	}()
}
