use crate::fleet::pages::chart::{charts, points};

#[test]
fn a_line_goes_from_edge_to_edge_and_stays_inside() {
    assert_eq!(points(&[0.0, 0.5, 1.0], 1.0), "0.0,46.0 120.0,24.0 240.0,2.0");
    assert_eq!(points(&[0.0, 0.0], 0.0), "0.0,46.0 240.0,46.0", "nothing is drawn at the bottom");
    assert_eq!(points(&[2.0, 9.0], 1.0), "0.0,2.0 240.0,2.0");
}

#[test]
fn too_few_samples_make_no_chart() {
    assert_eq!(charts(&[]), []);
}
