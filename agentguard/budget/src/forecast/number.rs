//! Numbers: integers outside, floating point inside, and a distribution of what is never negative.

/// The nearest integer that there is. What is no number is none.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "such a cast saturates, and makes nothing of NaN"
)]
pub(super) fn amount(value: f64) -> u64 {
    value.round() as u64
}

/// The first millisecond that is not before this one, counted from `from`.
#[expect(
    clippy::cast_possible_truncation,
    reason = "such a cast saturates, and makes nothing of NaN"
)]
pub(super) fn time(from: i64, later: f64) -> i64 {
    from.saturating_add(later.max(0.0).ceil() as i64)
}

/// As a number that is computed with.
#[expect(
    clippy::cast_precision_loss,
    reason = "a forecast has three digits that count, not sixteen"
)]
pub(super) const fn of(value: u64) -> f64 {
    value as f64
}

/// The same of a span of time, in milliseconds.
#[expect(
    clippy::cast_precision_loss,
    reason = "a forecast has three digits that count, not sixteen"
)]
pub(super) const fn span(value: i64) -> f64 {
    value as f64
}

/// The 90th percentile of the normal distribution: between that and its mirror image are four fifths.
const NORMAL: f64 = 1.281_551_6;

/// The 90th percentile of Student's t with so many degrees of freedom: what the normal one becomes where the variance is
/// itself only an estimate of so many values. (Cornish and Fisher; within 2.5 % from two degrees on.)
fn student(freedom: f64) -> f64 {
    let (z, v) = (NORMAL, freedom.max(1.5));
    let (cubed, fifth) = (z.powi(3), z.powi(5));
    z + (cubed + z) / (4.0 * v) + (5.0 * fifth + 16.0 * cubed + 3.0 * z) / (96.0 * v * v)
}

/// The 10th and the 90th percentile of an amount with this mean and variance, of which the variance is known as well as
/// from so many degrees of freedom.
///
/// As of a gamma distribution: what is used is never less than nothing, and more often little than much. By the cube root
/// of Wilson and Hilferty, which is normal as nearly as matters here.
pub(super) fn tenths(mean: f64, variance: f64, freedom: f64) -> (f64, f64) {
    if mean <= 0.0 || variance <= 0.0 || !mean.is_finite() || !variance.is_finite() {
        return (mean.max(0.0), mean.max(0.0));
    }
    let ninth = variance / (mean * mean) / 9.0;
    let far = student(freedom) * ninth.sqrt();
    let at = |root: f64| mean * root.max(0.0).powi(3);
    let (low, high) = (at(1.0 - ninth - far), at(1.0 - ninth + far));
    (low.min(mean), high.max(mean))
}

#[cfg(test)]
mod tests {
    use super::{amount, student, tenths, time};

    #[test]
    fn percentiles_are_those_of_the_tables() {
        for (freedom, wanted) in [(2.0, 1.886), (3.0, 1.638), (11.0, 1.363), (1e9, 1.2816)] {
            let found = student(freedom);
            assert!((found / wanted - 1.0).abs() < 0.025, "{freedom}: {found}");
        }
        // Gamma with the shape 4 and the mean 4, and the one with the shape 1: exponential.
        for (mean, variance, low, high) in [(4.0, 4.0, 1.745, 6.681), (1.0, 1.0, 0.105, 2.303)] {
            let found = tenths(mean, variance, 1e9);
            assert!(
                (found.0 - low).abs() < 0.03 && (found.1 / high - 1.0).abs() < 0.02,
                "{found:?}"
            );
        }
    }

    #[test]
    fn what_is_no_number_is_none_and_nothing_wraps() {
        assert_eq!(amount(f64::NAN), 0);
        assert_eq!(amount(f64::INFINITY), u64::MAX);
        assert_eq!(amount(-3.0), 0);
        assert_eq!(time(i64::MAX - 1, 1e300), i64::MAX);
        assert_eq!(tenths(f64::NAN, 1.0, 1.0).0, 0.0);
        assert_eq!(tenths(0.0, 1.0, 1.0), (0.0, 0.0));
        let (low, high) = tenths(1e-300, 1e300, 2.0);
        assert!(low.is_finite() && !high.is_nan());
    }
}
