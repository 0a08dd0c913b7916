//! Where the sites of a backbone stand in a picture. Pure: the same backbone gives the same picture.

/// Width and height of the space that sites are laid out in.
pub const SIZE: (f64, f64) = (1000.0, 560.0);

/// Space left free at the edges, so that names have room.
const MARGIN: f64 = 50.0;

/// How strongly everything is drawn to the middle.
const GRAVITY: f64 = 1.5;

/// Up to so many sites are drawn large, and no farther apart than they need.
pub const FEW: usize = 40;

/// The longest name that is written out, letters.
const LONGEST: usize = 18;

/// Rounds of pushing and pulling; more change nothing that is seen.
const ROUNDS: u32 = 300;

/// A place for each site, by their names; `links` are pairs of them. Sites push one another away and links pull theirs
/// together (Fruchterman and Reingold, 1991), which begins on a circle and cools down evenly. Then all of it is spread over
/// the space there is, and sites whose names would cover one another move aside.
pub fn places(names: &[&str], links: &[(usize, usize)]) -> Vec<(f64, f64)> {
    let count = names.len();
    let (width, height) = (SIZE.0 - 2.0 * MARGIN, SIZE.1 - 2.0 * MARGIN);
    let angle = |n: usize| n as f64 / count.max(1) as f64 * std::f64::consts::TAU;
    let mut at: Vec<_> = (0..count).map(|n| (angle(n).cos() * width / 2.0, angle(n).sin() * height / 2.0)).collect();
    let ideal = (width * height / count.max(1) as f64).sqrt() * 0.7;
    for round in 0..ROUNDS {
        let heat = width / 10.0 * (1.0 - f64::from(round) / f64::from(ROUNDS));
        let mut push = vec![(0.0, 0.0); count];
        for one in 0..count {
            for other in 0..one {
                let (dx, dy, far) = between(at[one], at[other]);
                let force = ideal * ideal / far;
                shift(&mut push[one], dx / far * force, dy / far * force);
                shift(&mut push[other], -dx / far * force, -dy / far * force);
            }
        }
        for &(one, other) in links {
            let (dx, dy, far) = between(at[one], at[other]);
            let force = far * far / ideal;
            shift(&mut push[one], -dx / far * force, -dy / far * force);
            shift(&mut push[other], dx / far * force, dy / far * force);
        }
        for (place, (dx, dy)) in at.iter_mut().zip(push) {
            // Towards the middle, so that a site without links stays in sight of the others.
            let (dx, dy) = (dx - place.0 * GRAVITY, dy - place.1 * GRAVITY);
            let far = dx.hypot(dy).max(1e-6);
            let step = far.min(heat);
            shift(place, dx / far * step, dy / far * step);
        }
    }
    let reach = |of: fn(&(f64, f64)) -> f64| at.iter().map(of).fold(1.0, |most: f64, far| most.max(far.abs()));
    let (wide, high) = (width / 2.0 / reach(|p| p.0), height / 2.0 / reach(|p| p.1));
    let most = if count > FEW { f64::INFINITY } else { 1.0 };
    for place in &mut at {
        *place = (place.0 * wide.min(most), place.1 * high.min(most));
    }
    move_aside(&mut at, names, (width, height));
    at.into_iter().map(|(x, y)| ((x + SIZE.0 / 2.0).round(), (y + SIZE.1 / 2.0).round())).collect()
}

/// A name as it is written below its site.
pub fn label(name: &str) -> String {
    match name.char_indices().nth(LONGEST) {
        Some((end, _)) => format!("{}…", &name[..end]),
        None => name.to_owned(),
    }
}

/// Moves sites that cover one another apart, on the axis on which less is needed.
fn move_aside(at: &mut [(f64, f64)], names: &[&str], (width, height): (f64, f64)) {
    // A letter's width, and the height of a site with its name below it.
    let (letter, high) = if names.len() > FEW { (7.5, 40.0) } else { (9.5, 56.0) };
    let wide = |n: usize| names[n].chars().count().max(4) as f64 * letter;
    for _ in 0..ROUNDS {
        let mut is_clear = true;
        for one in 0..at.len() {
            for other in 0..one {
                let (dx, dy, _) = between(at[one], at[other]);
                let lack = (f64::midpoint(wide(one), wide(other)) + letter - dx.abs(), high - dy.abs());
                if lack.0 <= 0.0 || lack.1 <= 0.0 {
                    continue;
                }
                is_clear = false;
                let (dx, dy) = if lack.0 < lack.1 {
                    ((lack.0 / 2.0).copysign(dx), 0.0)
                } else {
                    (0.0, (lack.1 / 2.0).copysign(dy))
                };
                shift(&mut at[one], dx, dy);
                shift(&mut at[other], -dx, -dy);
            }
        }
        for place in at.iter_mut() {
            place.0 = place.0.clamp(-width / 2.0, width / 2.0);
            place.1 = place.1.clamp(-height / 2.0, height / 2.0);
        }
        if is_clear {
            return;
        }
    }
}

fn between(one: (f64, f64), other: (f64, f64)) -> (f64, f64, f64) {
    let (dx, dy) = (one.0 - other.0, one.1 - other.1);
    (dx, dy, dx.hypot(dy).max(0.01))
}

fn shift(force: &mut (f64, f64), dx: f64, dy: f64) {
    force.0 += dx;
    force.1 += dy;
}
