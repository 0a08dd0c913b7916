use muster_pki::ca::{Authority, Profile, Sign};

use super::*;

const DAY: i64 = 86_400_000;
const NOW: i64 = 1_790_000_000_000;

fn identity(id: &str) -> Identity {
    let (root, _) = Authority::root("root", 90 * DAY, NOW).unwrap();
    let key = Key::generate().unwrap();
    let profile = Profile::Agent { trust_domain: "t".into(), agent_id: id.into(), life: DAY };
    let issued = root.sign(&key.request().unwrap(), &profile, NOW).unwrap();
    Identity {
        agent_id: id.into(),
        class: "staging-host".into(),
        homes: vec!["home:1".into()],
        roots: hexes(root.chain()),
        chain: hexes(&[issued.der]),
        key_pem: key.to_pem(),
    }
}

fn write(dir: &Path, name: &str, identity: &Identity) {
    durable::folder(&folder(dir)).unwrap();
    durable::replace(&folder(dir).join(name), &serde_json::to_vec(identity).unwrap(), || ()).unwrap();
}

#[test]
fn a_candidate_replaces_the_identity_only_when_it_is_promoted() {
    let dir = tempfile::tempdir().unwrap();
    let (old, new) = (identity("old"), identity("new"));
    write(dir.path(), "agent.json", &old);
    write(dir.path(), "candidate.json", &new);
    let keeper = Keeper::open(dir.path()).unwrap();
    assert_eq!(keeper.current().leaf.agent_id.as_deref(), Some("old"));
    assert_eq!(keeper.candidate().unwrap().leaf.agent_id.as_deref(), Some("new"));
    keeper.promote().unwrap();
    let again = Keeper::open(dir.path()).unwrap();
    assert_eq!(again.current().identity.chain, new.chain);
    assert!(again.candidate().is_none());
}

#[test]
fn a_candidate_that_is_of_no_use_leaves_the_identity_as_it_was() {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), "agent.json", &identity("old"));
    write(dir.path(), "candidate.json", &identity("new"));
    Keeper::open(dir.path()).unwrap().discard().unwrap();
    fs::write(folder(dir.path()).join("candidate.json"), b"{half").unwrap();
    let again = Keeper::open(dir.path()).unwrap();
    assert_eq!((again.current().identity.agent_id.as_str(), again.candidate().is_none()), ("old", true));
}

#[test]
fn homes_word_on_roots_and_addresses_is_kept() {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), "agent.json", &identity("a"));
    let keeper = Keeper::open(dir.path()).unwrap();
    let roots: Vec<Vec<u8>> = ders(&identity("b").roots).unwrap().iter().map(|d| d.to_vec()).collect();
    assert!(keeper.learn(&roots, &["elsewhere:2".into()]).unwrap());
    assert!(!keeper.learn(&roots, &[]).unwrap(), "no addresses: those known are kept");
    assert!(keeper.learn(&[b"no certificate".to_vec()], &[]).is_err());
    let again = Keeper::open(dir.path()).unwrap().current().identity;
    assert_eq!((again.homes, again.roots), (vec!["elsewhere:2".to_owned()], hexes(&roots)));
}

#[test]
fn the_key_of_an_enrolment_is_the_same_until_the_invitation_changes() {
    let dir = tempfile::tempdir().unwrap();
    durable::folder(&folder(dir.path())).unwrap();
    let token = |secret: &'static [u8]| InvitationToken { secret: secret.into(), ..InvitationToken::default() };
    let key = |secret| joining_key(&folder(dir.path()), &token(secret)).unwrap().to_pem();
    let first = key(b"one");
    assert_eq!(key(b"one"), first);
    assert_ne!(key(b"two"), first);
}

#[test]
fn keys_are_for_their_owner_alone_and_never_printed() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().unwrap();
    let identity = identity("a");
    write(dir.path(), "agent.json", &identity);
    let mode = |path: PathBuf| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(folder(dir.path())), mode(folder(dir.path()).join("agent.json"))), (0o700, 0o600));
    assert!(!format!("{identity:?}").contains("PRIVATE"));
}
