//! The first pass: what is in each part of a message, and so what must be done with it.

use std::ops::Range;

use super::{
    super::{
        parameter::Cursor,
        summary::{DEPTH_MAX, PARTS_MAX, Part, PartKind, Summary},
    },
    Action, Additions, Content, Encoding, LINE_OCTETS, NAME_OCTETS, Plan, Region, Unconvertible,
    is_named,
};

/// Octets of a Content-Transfer-Encoding that are looked at.
const LABEL_OCTETS: usize = 200;

/// Looks at a message, which passes in pieces of any size, from its first octet.
#[derive(Debug)]
pub struct Survey {
    goal: Goal,
    regions: Vec<Region>,
    parts: Vec<Facts>,
    /// Index of the region that `offset` is in.
    region: usize,
    offset: u64,
    lines: Lines,
    fields: Fields,
    /// What does not fit was seen in a header or around parts.
    rewrites_around: bool,
    /// A header has an octet beyond ASCII.
    wide_header: bool,
}

/// What must not be in the message as it is written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Goal {
    /// Anything that a 7-bit path cannot carry.
    SevenBit,
    /// NUL.
    NoNul,
}

/// What is known of a part.
#[derive(Clone, Copy, Debug)]
struct Facts {
    kind: Kind,
    /// Inside a multipart/signed.
    signed: bool,
    /// The root of a message: its header has the MIME-Version.
    of_message: bool,
    label: Label,
    has_mime_version: bool,
    has_content_type: bool,
    /// Of the body, or of the text around the parts inside.
    octets: u64,
    /// Octets that quoted-printable must encode.
    special: u64,
    /// It must not go over a 7-bit path as it is.
    unfit: bool,
    /// It has an octet beyond ASCII.
    wide: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Kind {
    Text,
    /// Neither text nor composite.
    Other,
    /// Its inside is looked at part by part.
    Composite,
    /// Its inside is not known, but might be composite.
    Opaque,
}

/// Content-Transfer-Encoding.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Label {
    /// None, or "7bit".
    SevenBit,
    /// "8bit" or "binary".
    Wide,
    Encoded(Encoding),
    Unknown,
}

/// The end of a stretch of octets, as far as lines are concerned.
#[derive(Clone, Copy, Debug, Default)]
struct Lines {
    cr: bool,
    column: usize,
}

/// The fields of a header that matter.
#[derive(Debug, Default)]
struct Fields {
    /// The line so far, while it may be the name of a field.
    name: Vec<u8>,
    place: FieldPlace,
    /// The value of the first Content-Transfer-Encoding.
    label: Vec<u8>,
    has_label: bool,
    has_mime_version: bool,
    has_content_type: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
enum FieldPlace {
    #[default]
    LineStart,
    Name,
    Label,
    Other,
}

impl Survey {
    /// For a 7-bit path. `summary` is the message's own.
    pub fn new(summary: &Summary) -> Survey {
        Survey::with(Goal::SevenBit, summary)
    }

    /// For readers who take anything but NUL: parts with it get base64, nothing else changes.
    pub fn for_nul(summary: &Summary) -> Survey {
        Survey::with(Goal::NoNul, summary)
    }

    fn with(goal: Goal, summary: &Summary) -> Survey {
        let mut survey = Survey {
            goal,
            regions: Vec::new(),
            parts: Vec::new(),
            region: 0,
            offset: 0,
            lines: Lines::default(),
            fields: Fields::default(),
            rewrites_around: false,
            wide_header: false,
        };
        survey.add(summary.root(), true, false, 0);
        // What the root part does not cover, if anything.
        survey.add_region(summary.size(), 0, Content::Around);
        survey
    }

    fn add_region(&mut self, end: u64, part: usize, content: Content) {
        // Ranges of a stored summary are what its octets say: an order that makes no sense must not
        // lead outside.
        let end = end.max(self.regions.last().map_or(0, |region| region.end));
        let part = u16::try_from(part).unwrap_or(u16::MAX);
        self.regions.push(Region { end, part, content });
    }

    /// Adds the regions of `part` and of all inside. The depth is that of the summary, which is
    /// limited.
    fn add(&mut self, part: Part<'_>, of_message: bool, signed: bool, depth: usize) {
        let index = self.parts.len();
        let Range { end: header_end, .. } = part.header();
        let Range { end, .. } = part.body();
        let kind = kind_of(part, index, depth);
        self.parts.push(Facts {
            kind,
            signed,
            of_message,
            label: Label::SevenBit,
            has_mime_version: false,
            has_content_type: false,
            octets: 0,
            special: 0,
            unfit: false,
            wide: false,
        });
        self.add_region(header_end, index, Content::Header);
        if kind != Kind::Composite {
            return self.add_region(end, index, Content::Body);
        }
        let signed = signed || part.media_subtype().eq_ignore_ascii_case(b"signed");
        for child in part.children() {
            self.add_region(child.header().start, index, Content::Around);
            self.add(child, false, signed, depth + 1);
        }
        if let Some(message) = part.message() {
            self.add(message, true, signed, depth + 1);
        }
        self.add_region(end, index, Content::Around);
    }

    /// Takes the next octets of the message.
    pub fn push(&mut self, mut octets: &[u8]) {
        while let Some(region) = self.regions.get(self.region).copied() {
            let left = usize::try_from(region.end - self.offset).unwrap_or(usize::MAX);
            let (now, later) = octets.split_at(left.min(octets.len()));
            self.look(region, now);
            self.offset += now.len() as u64;
            octets = later;
            if self.offset < region.end {
                return;
            }
            self.end_region(region);
        }
    }

    fn look(&mut self, region: Region, octets: &[u8]) {
        let Some(part) = self.parts.get_mut(usize::from(region.part)) else { return };
        let (mut special, mut unfit) = (0, false);
        match self.goal {
            Goal::NoNul => unfit = memchr::memchr(0, octets).is_some(),
            Goal::SevenBit => {
                for &octet in octets {
                    let (is_special, is_unfit) = self.lines.take(octet);
                    special += u64::from(is_special);
                    unfit |= is_unfit;
                }
            }
        }
        let wide = !octets.is_ascii();
        match region.content {
            Content::Header => {
                octets.iter().for_each(|&octet| self.fields.take(octet));
                self.rewrites_around |= unfit;
                self.wide_header |= wide;
            }
            Content::Around => self.rewrites_around |= unfit,
            Content::Body => {
                part.octets += octets.len() as u64;
                part.special += special;
                part.unfit |= unfit;
                part.wide |= wide;
            }
        }
    }

    /// Whether what was seen needs SMTPUTF8: a header of the message or of a part has octets beyond
    /// ASCII (RFC 6532 3.1), or may have, in a part whose inside is not known.
    pub fn needs_utf8(&self) -> bool {
        let hidden = |part: &Facts| part.kind == Kind::Opaque && part.wide;
        self.wide_header || self.parts.iter().any(hidden)
    }

    fn end_region(&mut self, region: Region) {
        self.region += 1;
        let bare = std::mem::take(&mut self.lines).cr;
        let Some(part) = self.parts.get_mut(usize::from(region.part)) else { return };
        match region.content {
            Content::Body => part.unfit |= bare,
            Content::Around => self.rewrites_around |= bare,
            Content::Header => {
                self.rewrites_around |= bare;
                let fields = std::mem::take(&mut self.fields);
                part.label = fields.label();
                part.has_mime_version = fields.has_mime_version;
                part.has_content_type = fields.has_content_type;
            }
        }
    }

    /// The end of the message.
    pub fn finish(mut self) -> Result<Plan, Unconvertible> {
        if let Some(region) = self.regions.get(self.region).copied() {
            self.end_region(region);
        }
        let mut actions = Vec::with_capacity(self.parts.len());
        let mut breaks_signature = false;
        for part in &self.parts {
            let action = part.action(self.goal)?;
            breaks_signature |= part.signed && action != Action::Keep;
            actions.push(action);
        }
        let Survey { regions, rewrites_around, .. } = self;
        Ok(Plan { regions, actions, rewrites_around, breaks_signature })
    }
}

fn kind_of(part: Part<'_>, index: usize, depth: usize) -> Kind {
    // Beyond the limits of a summary nothing says what a part is.
    if depth >= DEPTH_MAX || index + 1 >= PARTS_MAX {
        return Kind::Opaque;
    }
    let encoded = matches!(Label::of(part.encoding()), Label::Encoded(_) | Label::Unknown);
    match part.kind() {
        // RFC 2045 6.4 forbids it, but there are such messages: their inside is one encoded text.
        PartKind::Multipart | PartKind::Message if encoded => Kind::Opaque,
        PartKind::Message if part.message().is_some() => Kind::Composite,
        PartKind::Message => Kind::Opaque,
        PartKind::Multipart if part.children().next().is_some() => Kind::Composite,
        PartKind::Multipart => Kind::Opaque,
        PartKind::Leaf => {
            let media_type = part.media_type();
            let global = part
                .media_subtype()
                .get(..6)
                .is_some_and(|start| start.eq_ignore_ascii_case(b"global"));
            if media_type.eq_ignore_ascii_case(b"text") {
                Kind::Text
            } else if media_type.eq_ignore_ascii_case(b"multipart")
                || media_type.eq_ignore_ascii_case(b"message") && !global
            {
                // RFC 2046 5.2: other kinds of message/* are 7-bit by definition.
                Kind::Opaque
            } else {
                Kind::Other
            }
        }
    }
}

impl Facts {
    fn action(&self, goal: Goal) -> Result<Action, Unconvertible> {
        if self.unfit {
            return match (self.kind, self.label) {
                (_, Label::Encoded(encoding)) => Ok(Action::Mend(encoding)),
                (Kind::Opaque, _) | (_, Label::Unknown) => Err(Unconvertible),
                // Not a region of its own.
                (Kind::Composite, _) => Ok(Action::Keep),
                (Kind::Text | Kind::Other, Label::SevenBit | Label::Wide) => {
                    Ok(Action::Encode(self.encoding(goal), self.additions(goal)))
                }
            };
        }
        match self.label {
            // A label that promises too much breaks no signature if it stays.
            Label::Wide if !self.signed && goal == Goal::SevenBit => Ok(Action::Relabel),
            _ => Ok(Action::Keep),
        }
    }

    /// The shorter one for text; base64 for anything else (RFC 2045 6.2), and for what has NUL.
    fn encoding(&self, goal: Goal) -> Encoding {
        let (quoted, base64) = (2 * self.special, self.octets / 3);
        match goal == Goal::SevenBit && self.kind == Kind::Text && quoted <= base64 {
            true => Encoding::QuotedPrintable,
            false => Encoding::Base64,
        }
    }

    fn additions(&self, goal: Goal) -> Additions {
        Additions {
            mime_version: self.of_message && !self.has_mime_version,
            // In a multipart/digest a part without a type is a message, and composite.
            // NUL says nothing about the charset.
            content_type: goal == Goal::SevenBit
                && !self.has_content_type
                && self.kind == Kind::Text,
        }
    }
}

impl Label {
    fn of(value: &[u8]) -> Label {
        let is = |name: &[u8]| value.eq_ignore_ascii_case(name);
        match value {
            b"" => Label::SevenBit,
            _ if is(b"7bit") => Label::SevenBit,
            _ if is(b"8bit") || is(b"binary") => Label::Wide,
            _ if is(b"quoted-printable") => Label::Encoded(Encoding::QuotedPrintable),
            _ if is(b"base64") => Label::Encoded(Encoding::Base64),
            _ => Label::Unknown,
        }
    }
}

impl Lines {
    /// Whether quoted-printable must encode the octet, and whether something unfit was found: an
    /// octet beyond ASCII, NUL, CR or LF that is not part of CRLF, a line that is too long.
    fn take(&mut self, octet: u8) -> (bool, bool) {
        let cr = std::mem::replace(&mut self.cr, octet == b'\r');
        match octet {
            b'\n' => {
                self.column = 0;
                (!cr, !cr)
            }
            b'\r' => (false, cr),
            _ => {
                self.column += 1;
                let special = !matches!(octet, b'\t' | b' '..=b'~') || octet == b'=';
                (special, cr || octet == 0 || octet >= 0x80 || self.column > LINE_OCTETS)
            }
        }
    }
}

impl Fields {
    fn take(&mut self, octet: u8) {
        self.place = match (self.place, octet) {
            (FieldPlace::LineStart, b' ' | b'\t') if self.in_label() => {
                self.keep(octet);
                FieldPlace::Label
            }
            (FieldPlace::LineStart, b' ' | b'\t') => FieldPlace::Other,
            (FieldPlace::LineStart | FieldPlace::Name, b':') => self.named(),
            (_, b'\n') => {
                // The next line may continue the label.
                if self.place != FieldPlace::Label {
                    self.name.clear();
                }
                FieldPlace::LineStart
            }
            (FieldPlace::LineStart, _) => {
                self.name.clear();
                self.name.push(octet);
                FieldPlace::Name
            }
            (FieldPlace::Name, _) if self.name.len() < NAME_OCTETS => {
                self.name.push(octet);
                FieldPlace::Name
            }
            (FieldPlace::Name, _) if is_named(&self.name, b"content-transfer-encoding") => {
                // More white space before the colon than the rewriter looks through.
                self.has_label = true;
                self.label.resize(LABEL_OCTETS, b' ');
                FieldPlace::Other
            }
            (FieldPlace::Label, _) => {
                self.keep(octet);
                FieldPlace::Label
            }
            (FieldPlace::Name | FieldPlace::Other, _) => FieldPlace::Other,
        };
    }

    /// Whether the field whose line has just ended is the label: its name was kept.
    fn in_label(&self) -> bool {
        !self.name.is_empty()
    }

    fn named(&mut self) -> FieldPlace {
        let name = &self.name;
        self.has_mime_version |= is_named(name, b"mime-version");
        self.has_content_type |= is_named(name, b"content-type");
        if is_named(name, b"content-transfer-encoding") && !self.has_label {
            self.has_label = true;
            return FieldPlace::Label;
        }
        FieldPlace::Other
    }

    fn keep(&mut self, octet: u8) {
        if self.label.len() < LABEL_OCTETS {
            self.label.push(octet);
        }
    }

    fn label(&self) -> Label {
        if self.label.len() >= LABEL_OCTETS {
            return Label::Unknown;
        }
        Label::of(Cursor::new(&self.label).token())
    }
}
