//! docs/S3.md, from the tables.

use super::{Asks, HEADERS, OPERATIONS, QUERY, Support};
use std::fmt::Write as _;

const OPENING: &str = "# The S3 API: what there is

<!-- Written from gateway/src/s3/support.rs; a test compares. `make docs` writes it again. -->

What a request asks for is given, or the request is refused: nothing that protects (a lock, a key, a grant, a condition) is
taken and then left out. What is refused as NotImplemented is refused with status 501 before a byte of its body is read, and only
after its caller is known to be allowed to ask.
";

/// The page.
pub fn page() -> String {
    let mut text = OPENING.to_owned();
    operations(&mut text);
    headers(&mut text);
    query(&mut text);
    text
}

// Writing to a String can't fail.
fn operations(text: &mut String) {
    let there = OPERATIONS.iter().filter(|o| o.support != Support::Refused).count();
    let _ = write!(text, "\n## Operations\n\n{there} of {}.\n\n| operation | | |\n|---|---|---|\n", OPERATIONS.len());
    for operation in OPERATIONS {
        let answer = match operation.support {
            Support::Supported | Support::Elsewhere => "supported",
            Support::Refused => "refused: NotImplemented",
        };
        let _ = writeln!(text, "| {} | {answer} | {} |", operation.name, operation.note);
    }
}

fn headers(text: &mut String) {
    text.push_str(
        "\n## Request headers\n\nThe headers of HTTP that S3 reads (`Range`, `If-*`, `Content-*`, `Expires`, `Cache-Control`, `Origin`) are \
         read where S3 reads them. Of an\n`x-amz-*` header with an empty value, or that is there twice, no one can say what it asks \
         for: 400 InvalidArgument.\n\n| header | | |\n|---|---|---|\n",
    );
    for header in HEADERS {
        let (answer, note) = match header.asks {
            Asks::Read(note) => ("supported", note.to_owned()),
            Asks::Checked(_, note) => ("supported", note.to_owned()),
            Asks::Only(values, what) => {
                let values: Vec<String> = values.iter().map(|value| format!("`{value}`")).collect();
                ("refused: NotImplemented", format!("{what}; given anyway: {}", values.join(", ")))
            }
            Asks::Refused(what) => ("refused: NotImplemented", what.to_owned()),
            Asks::Ignored(why) => ("ignored", why.to_owned()),
        };
        let _ = writeln!(text, "| `{}` | {answer} | {note} |", header.name);
    }
}

fn query(text: &mut String) {
    text.push_str(
        "\n## Query\n\nThe parameters of S3's operations are read where S3 reads them.\n\nIn a presigned URL (with `X-Amz-Signature`) a \
         parameter that begins with `x-amz-` counts as the header of its name, as SDKs\nmove them there: what becomes of it is in \
         the table above. The parameters of the signature are none, and\n`x-amz-sdk-checksum-algorithm` is one only with a \
         checksum, and\na checksum of nothing is none where there is a body (SDKs add it when they presign). The body must have the SHA-256 that `X-Amz-Content-Sha256` has. Of what is\nsaid twice, and not the same, in \
         the query or in query and header: 400 InvalidArgument.\n\nIn the query of any other request these may be; any other \
         one is refused: NotImplemented (send it as a signed header).\n\n",
    );
    for name in QUERY {
        let _ = writeln!(text, "* `{name}`");
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    #[test]
    fn the_page_is_what_the_tables_say() {
        let package =
            std::env::var_os("CARGO_MANIFEST_DIR").map(PathBuf::from).expect("cargo says where the package is");
        let path = package.join("../docs/S3.md");
        if std::env::var_os("STELE_WRITE_DOCS").is_some() {
            std::fs::write(&path, super::page()).expect("write docs/S3.md");
        }
        let written = std::fs::read_to_string(&path).expect("read docs/S3.md");
        assert!(written == super::page(), "docs/S3.md is not what gateway/src/s3/support.rs says: make docs");
    }
}
