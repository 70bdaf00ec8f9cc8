//! Numbers as they are written: prices, exactly.

/// A number that is written in decimal digits, as so many of its `10^-places`. None: it is no such number, it is
/// negative, has digits below those places, or does not fit.
pub(super) fn scaled(text: &str, places: u8) -> Option<u64> {
    let (digits, exponent) = read(text)?;
    let shift = exponent.checked_add(i32::from(places))?;
    if shift >= 0 {
        return scale_up(digits, shift);
    }
    let Some(divisor) = power(shift.checked_neg()?) else {
        return (digits == 0).then_some(0);
    };
    let whole = digits.checked_div(divisor)?;
    let is_exact = whole.checked_mul(divisor)? == digits;
    u64::try_from(whole).ok().filter(|_| is_exact)
}

/// As [`scaled`], where digits below the places are rounded up.
pub(super) fn rounded_up(text: &str, places: u8) -> Option<u64> {
    let (digits, exponent) = read(text)?;
    let shift = exponent.checked_add(i32::from(places))?;
    if shift >= 0 {
        return scale_up(digits, shift);
    }
    let divisor = power(shift.checked_neg()?);
    let whole = divisor.map_or(u128::from(digits > 0), |it| digits.div_ceil(it));
    u64::try_from(whole).ok()
}

fn scale_up(digits: u128, shift: i32) -> Option<u64> {
    if digits == 0 {
        return Some(0);
    }
    u64::try_from(digits.checked_mul(power(shift)?)?).ok()
}

fn power(exponent: i32) -> Option<u128> {
    10_u128.checked_pow(u32::try_from(exponent).ok()?)
}

/// Digits, and the power of ten that they are multiplied by.
fn read(text: &str) -> Option<(u128, i32)> {
    let (mantissa, exponent) = match text.split_once(['e', 'E']) {
        Some((mantissa, exponent)) => (mantissa, exponent.parse::<i32>().ok()?),
        None => (text, 0),
    };
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let is_number = !whole.is_empty()
        && whole.len() + fraction.len() <= 36
        && [whole, fraction]
            .iter()
            .all(|part| part.bytes().all(|it| it.is_ascii_digit()));
    if !is_number || mantissa.ends_with('.') {
        return None;
    }
    let digits = format!("{whole}{fraction}").parse().ok()?;
    let exponent = exponent.checked_sub(i32::try_from(fraction.len()).ok()?)?;
    Some((digits, exponent))
}

/// The shortest way to write so many millionths.
pub(super) fn written(millionths: u64) -> String {
    let (whole, rest) = (millionths / 1_000_000, millionths % 1_000_000);
    if rest == 0 {
        return whole.to_string();
    }
    let fraction = format!("{rest:06}");
    format!("{whole}.{}", fraction.trim_end_matches('0'))
}

/// As a number. The nearest one that a reader of JSON has may be another in the sixteenth digit.
pub(super) fn serialize<S: serde::Serializer>(millionths: u64, to: S) -> Result<S::Ok, S::Error> {
    let text = written(millionths);
    match text.parse::<f64>() {
        Ok(number) => to.serialize_f64(number),
        Err(_) => to.serialize_str(&text),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{rounded_up, scaled, written};

    #[test]
    fn numbers_are_read_exactly_or_not_at_all() {
        for (text, expected) in [
            ("2.5", Some(2_500_000)),
            ("0", Some(0)),
            ("0.003625", Some(3_625)),
            ("1e-1", Some(100_000)),
            ("2.5e-06", None),
            ("0.0000001", None),
            ("1e400", None),
            ("0e400", Some(0)),
            ("-1", None),
            ("+1", None),
            ("1.", None),
            (".5", None),
            ("", None),
            ("1,5", None),
            ("NaN", None),
            ("99999999999999999999", None),
        ] {
            assert_eq!(scaled(text, 6), expected, "{text}");
        }
        // A token's price of LiteLLM's, in millionths for a million of them.
        for (text, expected) in [
            ("2.5e-06", Some(2_500_000)),
            ("1.25e-7", Some(125_000)),
            ("0.00000015", Some(150_000)),
            ("1e-13", Some(1)),
            ("1e-99", Some(1)),
            ("0.0", Some(0)),
        ] {
            assert_eq!(rounded_up(text, 12), expected, "{text}");
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_again(value: u64) {
            prop_assert_eq!(scaled(&written(value), 6), Some(value));
        }

        #[test]
        fn no_text_is_too_much(text in ".{0,60}") {
            let _ = (scaled(&text, 6), rounded_up(&text, 12));
        }
    }
}
