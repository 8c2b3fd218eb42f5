//! Points on a smooth line.

/// At each point the straight line that fits its neighbours best, weighted by a Gaussian. It looks both ways, so that nothing
/// lags, and follows a slope to its very ends, where a mean would flatten it.
pub fn smoothed(points: &[(u64, f64)]) -> Vec<(u64, f64)> {
    // Wider for longer runs, but less than in proportion, so that the drop at the start is not smeared.
    let sigma = (0.6 * (points.len() as f64).sqrt()).max(1.0);
    let reach = (3.0 * sigma).ceil() as usize;
    let fit_at = |place: usize| {
        let window = place.saturating_sub(reach)..(place + reach + 1).min(points.len());
        let [mut w, mut wx, mut wxx, mut wy, mut wxy] = [0.0; 5];
        for other in window {
            let x = other as f64 - place as f64;
            let weight = (-0.5 * (x / sigma).powi(2)).exp();
            w += weight;
            wx += weight * x;
            wxx += weight * x * x;
            wy += weight * points[other].1;
            wxy += weight * x * points[other].1;
        }
        // The fitted line at x = 0; a single point is its own line.
        let determinant = w * wxx - wx * wx;
        if determinant > 0.0 { (wxx * wy - wx * wxy) / determinant } else { wy / w }
    };
    points.iter().enumerate().map(|(place, point)| (point.0, fit_at(place))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn smoothing_keeps_a_straight_line_to_its_ends() {
        for slope in [0.0, -0.25] {
            let line: Vec<_> = (0..50).map(|step| (step, 2.0 + slope * step as f64)).collect();
            let smooth = smoothed(&line);
            assert!(line.iter().zip(&smooth).all(|(one, other)| (one.1 - other.1).abs() < 1e-9), "{smooth:?}");
        }
        assert_eq!(smoothed(&[(1, 3.0)]), [(1, 3.0)]);
    }

    #[test]
    fn smoothing_takes_the_edge_off_a_peak_and_looks_both_ways() {
        let mut peak: Vec<_> = (0..51).map(|step| (step, 2.0)).collect();
        peak[25].1 = 10.0;
        let smooth = smoothed(&peak);
        assert!(smooth[25].1 < 6.0 && smooth[25].1 > smooth[24].1 && smooth[24].1 > 2.0);
        assert!((smooth[24].1 - smooth[26].1).abs() < 1e-9);
    }
}
