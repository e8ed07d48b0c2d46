# Sourced by the scripts beside it: packages of other Debian suites, from the mirrors that the machine
# uses already, through an apt of our own. The machine's sources, lists and packages stay as they are.

# Prints a mirror of the machine: `debian_mirror main`, or `debian_mirror security`.
debian_mirror() {
	local mirrors
	mirrors=$(apt-get indextargets --format '$(ORIGIN) $(REPO_URI)' 'Created-By: Packages' | sed -n 's/^Debian //p')
	case "$1" in
	main) mirrors=$(echo "$mirrors" | grep -v security) ;;
	security) mirrors=$(echo "$mirrors" | grep security) ;;
	esac
	echo "$mirrors" | head -n 1
}

# Makes an apt in a directory, for suites that are each `MIRROR SUITE`. Then `our_apt` runs it.
make_apt() { # DIRECTORY SUITE...
	apt_directory=$1
	shift
	mkdir -p "$apt_directory/lists/partial" "$apt_directory/cache/archives/partial"
	printf 'deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] %s main\n' "$@" >"$apt_directory/sources.list"
	our_apt apt-get update
}

our_apt() { # apt-get|apt-cache ARGUMENT...
	local program=$1
	shift
	"$program" -qq -o "Dir::Etc::SourceList=$apt_directory/sources.list" -o Dir::Etc::SourceParts=/dev/null \
		-o Dir::Etc::Preferences=/dev/null -o Dir::Etc::PreferencesParts=/dev/null \
		-o "Dir::State::Lists=$apt_directory/lists" -o "Dir::Cache=$apt_directory/cache" \
		-o Acquire::Retries=3 -o APT::Sandbox::User=root "$@"
}

# Prints the first package that a metapackage depends on whose name starts with PREFIX.
dependency() { # METAPACKAGE PREFIX
	our_apt apt-cache depends "$1" | sed -n "s/^ *Depends: *\\($2[^ ]*\\)\$/\\1/p" | head -n 1
}
