//! Compares answers with an OpenAPI document: the part of JSON Schema that ours uses, and stricter than the standard in one
//! way: a field that is not described is wrong.

use serde_json::Value;

/// What is wrong with a value, by a schema of a document: each fault with the place where it is.
pub fn faults(document: &Value, schema: &Value, value: &Value) -> Vec<String> {
    let mut faults = Vec::new();
    check(document, schema, value, "answer", &mut faults);
    faults
}

fn check(document: &Value, schema: &Value, value: &Value, at: &str, faults: &mut Vec<String>) {
    if let Some(name) = schema["$ref"].as_str() {
        let Some(named) = name.strip_prefix('#').and_then(|path| document.pointer(path)) else {
            return faults.push(format!("{at}: {name} is not in the document"));
        };
        return check(document, named, value, at, faults);
    }
    if let Some(choices) = schema["oneOf"].as_array() {
        let fits = |choice: &&Value| self::faults(document, choice, value).is_empty();
        match choices.iter().filter(fits).count() {
            1 => {}
            count => faults.push(format!("{at}: {count} of {} choices describe {value}", choices.len())),
        }
        return;
    }
    let types: Vec<&str> = match &schema["type"] {
        Value::String(name) => vec![name.as_str()],
        Value::Array(names) => names.iter().filter_map(Value::as_str).collect(),
        _ => return faults.push(format!("{at}: the schema has no type")),
    };
    let name = match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(number) if number.is_f64() => "number",
        Value::Number(_) => "integer",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    };
    if !types.contains(&name) {
        return faults.push(format!("{at}: {value} is no {types:?}"));
    }
    if let Some(allowed) = schema["enum"].as_array()
        && !allowed.contains(value)
    {
        faults.push(format!("{at}: {value} is none of {allowed:?}"));
    }
    match value {
        Value::Array(items) => check_items(document, schema, items, at, faults),
        Value::Object(fields) => {
            for required in schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str) {
                if !fields.contains_key(required) {
                    faults.push(format!("{at}: {required} is missing"));
                }
            }
            for (name, field) in fields {
                let described = schema["properties"].get(name).or_else(|| schema.get("additionalProperties"));
                match described {
                    Some(described) => check(document, described, field, &format!("{at}.{name}"), faults),
                    None => faults.push(format!("{at}: {name} is not described")),
                }
            }
        }
        _ => {}
    }
}

fn check_items(document: &Value, schema: &Value, items: &[Value], at: &str, faults: &mut Vec<String>) {
    let first = schema["prefixItems"].as_array().map(Vec::as_slice).unwrap_or_default();
    for (number, item) in items.iter().enumerate() {
        match first.get(number).or_else(|| schema.get("items")) {
            Some(described) => check(document, described, item, &format!("{at}[{number}]"), faults),
            None => faults.push(format!("{at}[{number}] is not described")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_does_not_fit_is_named() {
        let item = json!({"type": "object", "properties": {"n": {"type": ["integer", "null"]}}, "required": ["n"]});
        let document = json!({"components": {"Item": item}});
        let schema = json!({"type": "array", "items": {"oneOf": [{"$ref": "#/components/Item"}, {"type": "null"}]}});
        let count = |value: Value| faults(&document, &schema, &value).len();
        assert_eq!(count(json!([{"n": 1}, {"n": null}, null])), 0);
        for wrong in [json!({}), json!([1]), json!([{}]), json!([{"n": "1"}]), json!([{"n": 1, "more": 1}])] {
            assert_eq!(count(wrong.clone()), 1, "{wrong}");
        }
        assert_eq!(faults(&document, &json!({"$ref": "#/nothing"}), &json!(1)).len(), 1);
    }
}
