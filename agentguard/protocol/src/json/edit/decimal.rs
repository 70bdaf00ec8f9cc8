//! The order of numbers as JSON writes them, exactly: what a server may read more precisely than another is not the same.

use std::cmp::Ordering;

/// The fewest digits of an exponent that are counted with: those of the length of a text are among them.
const LEAST_WIDTH: usize = 20;

/// Which of two numbers (RFC 8259, 6) is larger. Takes time in proportion to their lengths, whatever their exponents.
pub(super) fn compare(one: &str, other: &str) -> Ordering {
    if let (Ok(one), Ok(other)) = (one.parse::<i128>(), other.parse::<i128>()) {
        return one.cmp(&other);
    }
    let (one, other) = (Decimal::read(one), Decimal::read(other));
    let sizes = || one.compare_sizes(&other);
    one.sign()
        .cmp(&other.sign())
        .then_with(|| match one.sign() {
            0 => Ordering::Equal,
            1.. => sizes(),
            _ => sizes().reverse(),
        })
}

/// A number: `0.DIGITS` times ten to the power of `exponent` and `point` together.
struct Decimal<'a> {
    negative: bool,
    /// Neither the first nor the last is a zero. None for zero.
    digits: String,
    /// How many of the digits stand before the point; less than none where zeros stand behind it first.
    point: i64,
    /// Whether [`Self::exponent`] is.
    small: bool,
    /// Without its sign. Any number of digits.
    exponent: &'a str,
}

impl<'a> Decimal<'a> {
    fn read(text: &'a str) -> Self {
        let (mantissa, exponent) = text.split_once(['e', 'E']).unwrap_or((text, ""));
        let unsigned = mantissa.strip_prefix('-').unwrap_or(mantissa);
        let (whole, fraction) = unsigned.split_once('.').unwrap_or((unsigned, ""));
        let all = format!("{whole}{fraction}");
        let digits = all.trim_start_matches('0');
        let zeros = all.len() - digits.len();
        let length = |length: usize| i64::try_from(length).unwrap_or(i64::MAX);
        Self {
            negative: mantissa.starts_with('-'),
            digits: digits.trim_end_matches('0').to_owned(),
            point: length(whole.len()) - length(zeros),
            small: exponent.starts_with('-'),
            exponent: exponent
                .trim_start_matches(['+', '-'])
                .trim_start_matches('0'),
        }
    }

    fn sign(&self) -> i8 {
        match (self.digits.is_empty(), self.negative) {
            (true, _) => 0,
            (false, true) => -1,
            (false, false) => 1,
        }
    }

    /// Of two that are not zero, without their signs.
    fn compare_sizes(&self, other: &Self) -> Ordering {
        let width = LEAST_WIDTH
            .max(self.exponent.len())
            .max(other.exponent.len());
        let powers = self.power(width).cmp(&other.power(width));
        powers.then_with(|| self.digits.cmp(&other.digits))
    }

    /// The power of ten and, so that none is less than zero, ten to the power of one more than `width`, in digits from
    /// the lowest on, put in order from the highest on.
    fn power(&self, width: usize) -> Vec<i64> {
        let mut digits = Vec::with_capacity(width + 2);
        let mut carry = self.point;
        let written = self.exponent.bytes().rev();
        for digit in written.chain(std::iter::repeat(b'0')).take(width + 1) {
            let digit = i64::from(digit.saturating_sub(b'0'));
            let sum = carry + if self.small { -digit } else { digit };
            digits.push(sum.rem_euclid(10));
            carry = sum.div_euclid(10);
        }
        digits.push(1 + carry);
        digits.reverse();
        digits
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn numbers_are_compared_exactly_whatever_their_size_and_form() {
        let nines = "9".repeat(400);
        let huge = |exponent: &str| format!("1e{exponent}{nines}");
        let ordered = [
            format!("-{}", huge("")),
            "-1e999999999999999999999".to_owned(),
            "-18446744073709551617".to_owned(),
            "-18446744073709551616.5".to_owned(),
            "-1.0000000000000001".to_owned(),
            "-1".to_owned(),
            "-0.1".to_owned(),
            format!("-1e-{nines}"),
            "0".to_owned(),
            huge("-1"),
            huge("-"),
            "1e-99999999999999999999999".to_owned(),
            "0.1".to_owned(),
            "0.10000000000000000001".to_owned(),
            "1".to_owned(),
            "1.0000000000000001".to_owned(),
            "1000000000000000000".to_owned(),
            "1.000000000000000001e18".to_owned(),
            "123456789012345678901234567890".to_owned(),
            "123456789012345678901234567890.5".to_owned(),
            "123456789012345678901234567891".to_owned(),
            "9".repeat(500),
            "1e999999999".to_owned(),
            "2e999999999".to_owned(),
            "1e1000000000".to_owned(),
            huge(""),
            huge("1"),
        ];
        for (n, one) in ordered.iter().enumerate() {
            for (m, other) in ordered.iter().enumerate() {
                assert_eq!(compare(one, other), n.cmp(&m), "{one} {other}");
            }
        }
    }

    #[test]
    fn one_number_has_many_forms() {
        for (one, other) in [
            ("0", "-0"),
            ("-0.0", "0e999999999999999999999999"),
            ("1", "1.000"),
            ("100", "1E+2"),
            ("100", "0.0001e0006"),
            ("0.5", "5e-1"),
            ("-12.50", "-125e-01"),
            ("1e99999999999999999999", "10e99999999999999999998"),
            ("1e100000000000000000000", "10e99999999999999999999"),
            ("1e-100000000000000000000", "0.1e-99999999999999999999"),
        ] {
            assert_eq!(compare(one, other), Ordering::Equal, "{one} {other}");
        }
    }

    /// A number as a whole one, of `10^-9`.
    fn scaled(whole: i64, fraction: u32, exponent: i32) -> i128 {
        let thousandths = i128::from(whole.abs()) * 1000 + i128::from(fraction);
        let power = u32::try_from(exponent + 6).unwrap();
        thousandths * 10_i128.pow(power) * i128::from(whole.signum())
    }

    prop_compose! {
        fn number()(
            whole in prop_oneof![1..20_i64, -20..-1_i64, any::<i32>().prop_map(i64::from)],
            fraction in prop_oneof![Just(0_u32), 0..1000_u32],
            exponent in -6..6_i32,
            zeros in 0..4_usize,
        ) -> (String, i128) {
            let whole = if whole == 0 { 1 } else { whole };
            let text = format!("{whole}.{fraction:03}{}e{exponent}", "0".repeat(zeros));
            (text, scaled(whole, fraction, exponent))
        }
    }

    proptest! {
        #[test]
        fn the_order_is_that_of_whole_numbers((one, a) in number(), (other, b) in number()) {
            prop_assert_eq!(compare(&one, &other), a.cmp(&b), "{} {}", one, other);
        }

        /// Bigger than any type has room for, the point moved against the exponent.
        #[test]
        fn where_the_point_stands_does_not_matter(
            digits in "[1-9][0-9]{0,60}",
            moved in 0..60_usize,
            exponent in -100_000..100_000_i64,
            other in -3..4_i64,
        ) {
            let moved = moved.min(digits.len() - 1);
            let (whole, fraction) = digits.split_at(digits.len() - moved);
            let fraction = if fraction.is_empty() { "0" } else { fraction };
            let length = i64::try_from(moved).unwrap();
            let one = format!("{whole}.{fraction}e{}", exponent + length);
            let same = format!("{digits}e{exponent}");
            prop_assert_eq!(compare(&one, &same), Ordering::Equal, "{} {}", one, same);
            let other_one = format!("{digits}e{}", exponent + other);
            prop_assert_eq!(compare(&one, &other_one), 0.cmp(&other), "{} {}", one, other_one);
            let more = format!("{digits}.{}1e{exponent}", "0".repeat(100));
            prop_assert_eq!(compare(&one, &more), Ordering::Less, "{} {}", one, more);
        }

        #[test]
        fn whole_numbers_are_in_their_order(a in any::<i128>(), b in any::<i128>(), by in -1..2_i128) {
            for b in [b, a.saturating_add(by)] {
                let (one, other) = (format!("{a}.0"), format!("{b}e0"));
                prop_assert_eq!(compare(&one, &other), a.cmp(&b), "{} {}", one, other);
            }
        }
    }
}
