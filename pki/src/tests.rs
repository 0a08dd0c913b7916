use crate::{
    ca::{Authority, BACKDATE_AGENT, Profile, Sign, request_key_hash},
    key::Key,
    leaf, rotate,
    seal::SealKey,
    standing::{Known, Standing, judge},
};

const DAY: i64 = 86_400_000;
const NOW: i64 = 1_790_000_000_000;

fn house() -> Authority {
    let (root, _) = Authority::root("Muster root", 3650 * DAY, NOW).expect("a root");
    root.issuing("Muster issuing", 365 * DAY, NOW).expect("an issuing CA").0
}

fn agent(id: &str) -> Profile {
    Profile::Agent { trust_domain: "muster.test".into(), agent_id: id.into(), life: DAY }
}

#[test]
fn an_agent_is_named_by_home_and_not_by_its_request() {
    let key = Key::generate().expect("a key");
    let request = key.request().expect("a request");
    let issued = house().sign(&request, &agent("a1"), NOW).expect("a certificate");
    assert_eq!(issued.leaf.agent_id.as_deref(), Some("a1"));
    assert_eq!(issued.leaf.trust_domain.as_deref(), Some("muster.test"));
    assert_eq!(issued.leaf.not_before, NOW - BACKDATE_AGENT);
    assert_eq!(issued.leaf.not_after, NOW + DAY);
    assert_eq!(issued.leaf.key_hash, request_key_hash(&request).expect("a hash"));
    assert!(!issued.leaf.is_ca);
}

#[test]
fn a_leaf_names_the_key_of_its_issuer() {
    let house = house();
    let issued = house.sign(&Key::generate().unwrap().request().unwrap(), &agent("a"), NOW).expect("a certificate");
    let issuer = leaf::read(&house.chain()[0]).expect("the issuer reads");
    assert_eq!(issued.leaf.issuer_key, issuer.subject_key);
    assert!(issuer.is_ca);
}

#[test]
fn a_router_is_named_by_dns_names_alone_and_serves_and_calls() {
    let request = Key::generate().unwrap().request().unwrap();
    let names = vec!["edge.example.org".to_owned(), "127.0.0.2".to_owned()];
    let profile = Profile::Router { common_name: "m1".into(), names, life: DAY };
    let issued = house().sign(&request, &profile, NOW).expect("a certificate");
    let (_, parsed) = x509_parser::parse_x509_certificate(&issued.der).expect("it parses");
    let sans = parsed.subject_alternative_name().expect("well formed").expect("there").value.general_names.clone();
    let sans: Vec<_> = sans.iter().map(ToString::to_string).collect();
    assert_eq!(sans, ["DNSName(edge.example.org)", "DNSName(127.0.0.2)"]);
    assert_eq!(parsed.subject().iter_common_name().next().and_then(|cn| cn.as_str().ok()), Some("m1"));
    let usage = parsed.extended_key_usage().expect("well formed").expect("there").value;
    assert!(usage.server_auth && usage.client_auth);
}

#[test]
fn a_request_that_is_none_is_refused() {
    assert!(house().sign(b"nonsense", &agent("a"), NOW).is_err());
    let mut request = Key::generate().unwrap().request().unwrap();
    let last = request.len() - 1;
    request[last] ^= 1;
    assert!(house().sign(&request, &agent("a"), NOW).is_err(), "a request whose signature is wrong");
}

#[test]
fn a_revocation_list_names_what_is_revoked() {
    let house = house();
    let list = house.revocation_list(&[(vec![0x41, 2, 3], NOW)], 7, NOW).expect("a list");
    let (_, parsed) = x509_parser::parse_x509_crl(&list).expect("the list parses");
    assert_eq!(parsed.iter_revoked_certificates().map(|r| r.raw_serial().to_vec()).collect::<Vec<_>>(), [[0x41, 2, 3]]);
}

#[test]
fn what_is_sealed_opens_only_for_its_purpose_and_its_key() {
    let key = SealKey::new(&SealKey::generate());
    let sealed = key.seal("ca", b"secret");
    assert_eq!(key.open("ca", &sealed).expect("opens"), b"secret");
    assert!(key.open("other", &sealed).is_err());
    assert!(SealKey::new(&SealKey::generate()).open("ca", &sealed).is_err());
    assert!(key.open("ca", &sealed[..10]).is_err());
    assert_ne!(sealed, key.seal("ca", b"secret"), "a nonce is never used twice");
}

#[test]
fn standing_is_judged_by_rows_first_and_clocks_second() {
    let ok = Known { revoked: false, superseded: false, former_issuer: false };
    let judged = |known, now| judge(known, 100, 200, now, 50);
    assert_eq!(judged(None, 150), Standing::Unknown);
    assert_eq!(judged(Some(ok), 99), Standing::NotYetValid);
    assert_eq!(judged(Some(ok), 100), Standing::Ok);
    assert_eq!(judged(Some(ok), 200), Standing::Expired);
    assert_eq!(judged(Some(ok), 250), Standing::ExpiredBeyondGrace);
    assert_eq!(judged(Some(Known { revoked: true, ..ok }), 250), Standing::Revoked);
    assert_eq!(judged(Some(Known { superseded: true, ..ok }), 150), Standing::Superseded);
    assert_eq!(judged(Some(Known { former_issuer: true, ..ok }), 150), Standing::Expired);
}

#[test]
fn a_leaf_is_renewed_at_two_thirds_of_its_life_with_jitter() {
    let at = |jitter| rotate::renew_at(NOW - BACKDATE_AGENT, NOW + 12 * DAY, BACKDATE_AGENT, jitter);
    assert_eq!(at(0.0), NOW + 8 * DAY);
    assert_eq!(at(1.0), NOW + 9 * DAY);
}

#[test]
fn a_rotation_goes_prepare_activate_retire() {
    use rotate::{Facts, Slot, Stage, Step, decide};
    let facts = Facts { all_told: false, pinned_by_invitations: false, leaf_life_and_grace: 8 * DAY, requested: false };
    let slot = |stage, since, not_after| Slot { stage, since, not_after, life: 90 * DAY };
    let active = slot(Stage::Active, 0, 90 * DAY);
    assert_eq!(decide(0, &[], facts), Step::Prepare);
    assert_eq!(decide(59 * DAY, &[active], facts), Step::Keep);
    assert_eq!(decide(60 * DAY, &[active], facts), Step::Prepare);
    assert_eq!(decide(1, &[active], Facts { requested: true, ..facts }), Step::Prepare);
    let next = slot(Stage::Prepared, 60 * DAY, 150 * DAY);
    assert_eq!(decide(61 * DAY, &[active, next], facts), Step::Keep, "not every agent is told");
    assert_eq!(decide(61 * DAY, &[active, next], Facts { all_told: true, ..facts }), Step::Activate);
    assert_eq!(decide(89 * DAY, &[active, next], facts), Step::Activate, "the old one is about to end");
    let former = slot(Stage::Former, 61 * DAY, 90 * DAY);
    let now_active = slot(Stage::Active, 61 * DAY, 150 * DAY);
    assert_eq!(decide(62 * DAY, &[former, now_active], facts), Step::Keep);
    assert_eq!(decide(69 * DAY, &[former, now_active], facts), Step::Retire);
    let pinned = Facts { pinned_by_invitations: true, ..facts };
    assert_eq!(decide(69 * DAY, &[former, now_active], pinned), Step::Keep, "an invitation still pins it");
}
