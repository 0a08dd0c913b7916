use std::{env, fs, path::Path};

use prost::Message;
use prost_types::FileDescriptorSet;

use crate::{
    DESCRIPTOR,
    fleet::{InvitationToken, Refusal, refusal::Reason},
    refusal, token,
};

fn sample() -> InvitationToken {
    InvitationToken {
        homes: vec!["home.example.org:7443".into()],
        root_sha256: vec![7; 32].into(),
        secret: vec![9; 32].into(),
    }
}

/// The wire as one line per message field, enum value and method: what a reader can diff.
fn outline(set: &FileDescriptorSet) -> String {
    fn message(out: &mut String, prefix: &str, m: &prost_types::DescriptorProto) {
        let name = format!("{prefix}.{}", m.name());
        for f in &m.field {
            let ty = f.type_name.clone().unwrap_or_else(|| format!("{:?}", f.r#type()).to_lowercase());
            out.push_str(&format!("{name} {} = {} {:?} {ty}\n", f.name(), f.number(), f.label()));
        }
        m.enum_type.iter().for_each(|e| values(out, &name, e));
        m.nested_type.iter().for_each(|n| message(out, &name, n));
    }
    fn values(out: &mut String, prefix: &str, e: &prost_types::EnumDescriptorProto) {
        for v in &e.value {
            out.push_str(&format!("{prefix}.{} {} = {}\n", e.name(), v.name(), v.number()));
        }
    }
    let mut out = String::new();
    for file in &set.file {
        file.message_type.iter().for_each(|m| message(&mut out, file.package(), m));
        file.enum_type.iter().for_each(|e| values(&mut out, file.package(), e));
        for service in &file.service {
            for m in &service.method {
                let stream = |on: bool| if on { "stream " } else { "" };
                out.push_str(&format!(
                    "{}.{} {}({}{}) -> {}{}\n",
                    file.package(),
                    service.name(),
                    m.name(),
                    stream(m.client_streaming()),
                    m.input_type(),
                    stream(m.server_streaming()),
                    m.output_type(),
                ));
            }
        }
    }
    out
}

#[test]
fn the_wire_is_the_stored_one() {
    let set = FileDescriptorSet::decode(DESCRIPTOR).expect("the descriptor decodes");
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("wire.txt");
    let now = outline(&set);
    if env::var_os("MUSTER_BLESS").is_some() {
        fs::write(&path, &now).expect("the outline can be written");
    }
    let stored = fs::read_to_string(&path).expect("proto/wire.txt is there");
    assert!(now == stored, "the wire changed; if that is meant, run this test with MUSTER_BLESS=1 and read the diff");
}

#[test]
fn a_token_comes_back_as_it_was() {
    let text = token::format(&sample());
    assert_eq!(token::parse(&format!("  {text}\n")), Ok(sample()));
}

#[test]
fn a_damaged_token_is_refused() {
    let text = token::format(&sample());
    assert_eq!(token::parse("hello"), Err(token::Error::Prefix));
    assert_eq!(token::parse(&text[..text.len() - 9]), Err(token::Error::Damaged));
    assert_eq!(token::parse("muster-"), Err(token::Error::Damaged));
}

#[test]
fn a_refusal_survives_its_status() {
    let refused = Refusal { reason: Reason::Revoked.into(), message: "gone".into(), ..Refusal::default() };
    assert_eq!(refusal::from_status(&refusal::into_status(&refused)), Some(refused));
    assert_eq!(refusal::from_status(&tonic::Status::internal("x")), None);
}
