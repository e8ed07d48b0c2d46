//! Listings of stock nft, compared.

/// Compares two listings, whatever the order of elements, and shows the first line that differs.
#[track_caller]
pub(crate) fn assert_same(one: &str, other: &str) {
    let (one, other) = (sorted(one), sorted(other));
    for (one, other) in one.lines().zip(other.lines()) {
        assert_eq!(one, other);
    }
    assert_eq!(one.lines().count(), other.lines().count());
}

/// A listing with the elements of each set in a fixed order: the kernel's is that of its hashes.
fn sorted(listing: &str) -> String {
    let mut out = String::new();
    let mut elements: Option<Vec<String>> = None;
    for line in listing.lines() {
        let trimmed = line.trim();
        let start = trimmed.strip_prefix("elements = { ");
        if start.is_some() {
            elements = Some(Vec::new());
        }
        let Some(list) = &mut elements else {
            out.push_str(line);
            out.push('\n');
            continue;
        };
        let (text, ends) = match start.unwrap_or(trimmed).strip_suffix(" }") {
            Some(text) => (text, true),
            None => (start.unwrap_or(trimmed), false),
        };
        list.extend(
            text.split(',').map(|part| part.trim().to_owned()).filter(|part| !part.is_empty()),
        );
        if ends {
            list.sort_unstable();
            out.push_str(&list.join("\n"));
            out.push('\n');
            elements = None;
        }
    }
    out
}
