# shellcheck shell=sh
# Read by the scripts that build Go programs for tests.

# Goes to the script's own directory. $out is the directory that it was told, by default $1 in target/ of the checkout.
begin() { # DEFAULT [DIRECTORY]
	here=$(cd "$(dirname "$0")" && pwd)
	out=${2:-$here/../../target/$1}
	mkdir -p "$out"
	out=$(cd "$out" && pwd)
	cd "$here" || exit
}

# Builds a program, with $ldflags and $tags. One that is newer than everything it is made from is left alone: linking
# takes several seconds even when nothing has to be compiled. The Go version is not looked at: go.mod names the one in
# use.
build() { # PROGRAM PACKAGE SOURCE...
	program=$out/$1
	package=$2
	shift 2
	[ ! -x "$program" ] || [ -n "$(find go.mod go.sum build.sh "$@" -newer "$program")" ] || return 0
	go build -trimpath -ldflags "-s -w ${ldflags-}" -tags "${tags-}" -o "$program.new" "$package"
	# A running program cannot be written to, but it can be replaced.
	mv "$program.new" "$program"
	# go build takes over the time of a cached program.
	touch "$program"
}
