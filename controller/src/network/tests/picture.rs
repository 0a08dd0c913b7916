use crate::network::picture::{SIZE, label, places};

fn far(one: (f64, f64), other: (f64, f64)) -> f64 {
    (one.0 - other.0).hypot(one.1 - other.1)
}

/// Whether a site with its name, as it is drawn among many, covers another.
fn covers(one: (&str, (f64, f64)), other: (&str, (f64, f64))) -> bool {
    let half = |name: &str| (name.chars().count() as f64 * 6.6).max(20.0) / 2.0;
    let (dx, dy) = (one.1.0 - other.1.0, one.1.1 - other.1.1);
    dx.abs() < half(one.0) + half(other.0) && dy.abs() < 34.0
}

#[test]
fn a_hundred_sites_are_read_at_once_and_stand_where_they_stood() {
    let names: Vec<_> = (0..100).map(|n| format!("{}-{n}", &"copenhagen"[..n % 11])).collect();
    let names: Vec<_> = names.iter().map(String::as_str).collect();
    let tree: Vec<_> = (1..100).map(|n| (n, (n - 1) / 3)).collect();
    let mesh: Vec<_> = (0..100).flat_map(|n| [(n, (n + 1) % 100), (n, (n + 7) % 100)]).collect();
    for links in [tree, mesh, Vec::new()] {
        let found = places(&names, &links);
        for (n, one) in found.iter().enumerate() {
            assert!((30.0..=SIZE.0 - 30.0).contains(&one.0) && (20.0..=SIZE.1 - 30.0).contains(&one.1), "{one:?}");
            for other in n + 1..100 {
                let pair = [n, other].map(|n| (names[n], found[n]));
                assert!(!covers(pair[0], pair[1]), "{pair:?}");
            }
        }
        assert_eq!(places(&names, &links), found);
    }
}

#[test]
fn who_is_linked_stands_nearer_than_who_is_not() {
    let found = places(&["paris", "rome", "berlin"], &[(0, 1)]);
    assert!(far(found[0], found[1]) < far(found[0], found[2]), "{found:?}");
    assert!(found.iter().all(|place| far(*place, (SIZE.0 / 2.0, SIZE.1 / 2.0)) < 400.0), "{found:?}");
    assert!(places(&[], &[]).is_empty());
}

#[test]
fn a_long_name_is_cut_where_it_is_drawn() {
    assert_eq!(label("paris"), "paris");
    assert_eq!(label(&"ü".repeat(40)).chars().count(), 19);
}
