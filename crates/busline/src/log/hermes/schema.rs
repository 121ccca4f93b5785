//! The public data schema: which types of objects there are, and what they have.

use busline_core::{Error, ErrorKind, Result};

use super::value::{Map, Value};

/// The types of objects that a server's events are about, in the order in which they were declared.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct DataSchema(Vec<(String, ObjectSchema)>);

/// What the objects of a type have.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ObjectSchema {
    /// The names of all attributes.
    pub attributes: Vec<String>,
    /// Those that are secret.
    pub secrets: Vec<String>,
    /// Those that make the primary key; several for a composite one.
    pub primary_key: Vec<String>,
    /// Attributes of the primary key that name an object of another type: attribute, type, its attribute.
    pub foreign_keys: Vec<(String, String, String)>,
}

impl DataSchema {
    /// Without types.
    pub fn new() -> Self {
        Self::default()
    }

    /// The same with one more type.
    #[must_use]
    pub fn with(mut self, name: impl Into<String>, object: ObjectSchema) -> Self {
        self.0.push((name.into(), object));
        self
    }

    /// The types in order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&str, &ObjectSchema)> {
        self.0.iter().map(|(name, object)| (name.as_str(), object))
    }

    /// As `dataschema` and `init-start` carry it.
    pub fn to_map(&self) -> Map {
        self.0.iter().map(|(name, object)| (name.as_str(), object.to_map())).collect()
    }

    /// From what `dataschema` or `init-start` carries; `Limit` names what is missing or of another shape. What
    /// the schema has besides is passed over.
    pub fn from_map(map: &Map) -> Result<Self> {
        let of = |(name, value): (_, &Value)| {
            let name = format!("{name}");
            let object = ObjectSchema::from_value(value)
                .map_err(|why| wrong(format!("the type '{name}' {why}")))?;
            Ok((name, object))
        };
        map.iter().map(of).collect::<Result<_>>().map(Self)
    }
}

impl ObjectSchema {
    fn to_map(&self) -> Map {
        let sorted = |names: &[String]| {
            let mut names = names.to_vec();
            names.sort();
            Value::from(names)
        };
        let primary_key = match &self.primary_key[..] {
            [only] => only.clone().into(),
            several => Value::from(several.to_vec()),
        };
        let foreign = |(attribute, object, of): &(String, String, String)| {
            (attribute.clone(), vec![object.clone(), of.clone()])
        };
        Map::new()
            .with("HERMES_ATTRIBUTES", sorted(&self.attributes))
            .with("SECRETS_ATTRIBUTES", sorted(&self.secrets))
            .with("PRIMARYKEY_ATTRIBUTE", primary_key)
            .with("FOREIGN_KEYS", self.foreign_keys.iter().map(foreign).collect::<Map>())
    }

    fn from_value(value: &Value) -> Result<Self, String> {
        let map = value.as_map().ok_or_else(|| format!("is {}, not an object", value.kind()))?;
        let get = |name: &str| map.get(name).ok_or_else(|| format!("has no {name}"));
        let names = |name: &str, value: &Value| {
            let wrong = || format!("has a {name} that is no list of names");
            let items = value.as_list().ok_or_else(wrong)?;
            let of = |item: &Value| item.as_str().map(str::to_owned).ok_or_else(wrong);
            items.iter().map(of).collect::<Result<Vec<_>, String>>()
        };
        let list = |name: &str| names(name, get(name)?);
        let primary_key = match get("PRIMARYKEY_ATTRIBUTE")? {
            Value::Text(only) => vec![only.to_string()],
            several => names("PRIMARYKEY_ATTRIBUTE", several)?,
        };
        let foreign = get("FOREIGN_KEYS")?;
        let foreign = foreign.as_map().ok_or("has FOREIGN_KEYS that are no object")?;
        let of = |(attribute, value): (_, &Value)| {
            let pair = names("FOREIGN_KEYS", value)?;
            let [object, of] = &pair[..] else {
                return Err("has a foreign key that is no type and attribute".to_owned());
            };
            Ok((format!("{attribute}"), object.clone(), of.clone()))
        };
        Ok(Self {
            attributes: list("HERMES_ATTRIBUTES")?,
            secrets: list("SECRETS_ATTRIBUTES")?,
            primary_key,
            foreign_keys: foreign.iter().map(of).collect::<Result<_, String>>()?,
        })
    }
}

fn wrong(why: String) -> Error {
    Error::new(ErrorKind::Limit, why).during("hermes data schema")
}
