//! How Go programs read a command line, where clap reads it otherwise.

use std::ffi::OsString;
use std::path::Path;

/// Flags of which an empty value is as good as none. For others it says something: `--metrics-bind-address=` is nowhere.
const EMPTY_IS_NONE: [&str; 7] = [
    "--config=",
    "--write-config-to=",
    "--kubeconfig=",
    "--feature-gates=",
    "--vmodule=",
    "--nodeport-addresses=",
    "--ipvs-exclude-cidrs=",
];

/// The command line as clap takes it. Under kube-proxy's name we are called as kube-proxy is, with its flags alone; the names
/// of flags may have underscores (`WordSepNormalizeFunc` of `k8s.io/component-base/cli/flag`).
pub fn arguments(given: impl IntoIterator<Item = OsString>) -> Vec<OsString> {
    let mut arguments: Vec<_> = given.into_iter().map(hyphenated).collect();
    arguments.retain(|argument| !EMPTY_IS_NONE.iter().any(|flag| argument == flag));
    let name = arguments.first().map(Path::new).and_then(Path::file_name);
    if name.is_some_and(|name| name == "kube-proxy") {
        arguments.insert(1, "run".into());
    }
    arguments
}

fn hyphenated(argument: OsString) -> OsString {
    let Some(flag) = argument.to_str().filter(|text| text.starts_with("--")) else {
        return argument;
    };
    let end = flag.find('=').unwrap_or(flag.len());
    let (name, value) = flag.split_at(end);
    format!("{}{value}", name.replace('_', "-")).into()
}

/// Reads a boolean as `strconv.ParseBool` does.
///
/// # Errors
/// If it is none.
pub fn boolean(text: &str) -> Result<bool, String> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
        _ => Err("must be true or false".to_owned()),
    }
}

/// Reads an integer as `strconv.ParseInt` does with base 0: `0x1f`, `0o17` and `017`, `0b11`, `1_000`.
///
/// # Errors
/// If it is none, or too large.
pub(super) fn integer(text: &str) -> Result<i32, String> {
    let (sign, digits) = match text.split_at_checked(1) {
        Some((sign @ ("-" | "+"), digits)) => (sign, digits),
        _ => ("", text),
    };
    let lower = digits.to_ascii_lowercase();
    let prefixed =
        [("0x", 16), ("0o", 8), ("0b", 2)].into_iter().find(|(of, _)| lower.starts_with(of));
    let (digits, radix) = match prefixed {
        Some((_, radix)) => (&lower[2..], radix),
        None if lower.len() > 1 && lower.starts_with('0') => (&lower[1..], 8),
        None => (lower.as_str(), 10),
    };
    let refused = || "must be an integer of 32 bits".to_owned();
    if !digits.starts_with(|first: char| first.is_digit(radix)) {
        return Err(refused());
    }
    let digits = digits.replace('_', "");
    i32::from_str_radix(&format!("{sign}{digits}"), radix).map_err(|_| refused())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(words: &[&str]) -> Vec<String> {
        let made = arguments(words.iter().map(OsString::from));
        made.into_iter().map(|word| word.into_string().unwrap()).collect()
    }

    #[test]
    fn flags_are_spelled_as_for_kube_proxy() {
        let words = ["/x/kube-proxy", "--proxy_mode=a_b", "--config=", "--metrics-bind-address="];
        let expected = ["/x/kube-proxy", "run", "--proxy-mode=a_b", "--metrics-bind-address="];
        assert_eq!(of(&words), expected);
        assert_eq!(of(&["shunt", "run", "x_y"]), ["shunt", "run", "x_y"]);
        assert!(of(&[]).is_empty());
    }

    #[test]
    fn integers_are_read_as_go_does() {
        for (text, number) in [
            ("0", 0),
            ("-5", -5),
            ("+7", 7),
            ("0x1F", 31),
            ("010", 8),
            ("0b11", 3),
            ("-0o17", -15),
            ("1_000", 1000),
            ("-2147483648", i32::MIN),
        ] {
            assert_eq!(integer(text), Ok(number), "{text}");
        }
        for text in ["", "-", "x", "1.5", "0x", "08", "--1", "0x-1", "_1", "2147483648", "\u{b5}"] {
            assert!(integer(text).is_err(), "{text}");
        }
    }

    #[test]
    fn booleans_are_read_as_go_does() {
        for (text, read) in [("1", Ok(true)), ("F", Ok(false)), ("True", Ok(true))] {
            assert_eq!(boolean(text), read);
        }
        assert!(boolean("yes").is_err() && boolean("").is_err());
    }
}
