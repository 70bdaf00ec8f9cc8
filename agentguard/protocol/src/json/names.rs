//! Names of members, as the most lenient of servers compare them.

/// Whether some server takes one name of a member for another: in another case, and some look at case beyond ASCII
/// (`ſ` is an `s`, and the sign for Kelvin a `k`).
#[must_use]
pub fn same_name(one: &str, other: &str) -> bool {
    fn folded(name: &str) -> impl Iterator<Item = char> {
        let upper = name.chars().flat_map(char::to_uppercase);
        upper.flat_map(char::to_lowercase)
    }
    let beyond = !one.is_ascii() || !other.is_ascii();
    one.eq_ignore_ascii_case(other) || beyond && folded(one).eq(folded(other))
}

#[cfg(test)]
mod tests {
    use super::same_name;

    #[test]
    fn a_name_is_the_same_however_a_server_folds_it() {
        for (one, other) in [
            ("user", "USER"),
            ("user", "u\u{17f}er"),
            ("TOKEN", "to\u{212a}en"),
            ("Größe", "GRÖSSE"),
            ("", ""),
        ] {
            assert!(same_name(one, other) && same_name(other, one), "{one}");
        }
        for (one, other) in [("user", "users"), ("user", "us\u{435}r"), ("", "a")] {
            assert!(!same_name(one, other), "{one}");
        }
    }
}
