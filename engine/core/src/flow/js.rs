//! What JavaScript would do with a JSON value: text, equality, order, truth. `None` stands for `undefined`.

use std::cmp::Ordering;
use std::fmt::Write as _;

use serde_json::{Number, Value};

/// Digits before the point above which JavaScript writes an exponent.
const DECIMAL_DIGITS_MAX: i32 = 21;
/// Zeros after the point above which JavaScript writes an exponent, as a power of ten.
const DECIMAL_EXPONENT_MIN: i32 = -6;

/// `String(value)`: numbers as JavaScript prints them, arrays joined with commas (nulls in them are empty), objects
/// `[object Object]`, an absent value `undefined`. Integers beyond 2^53 keep all their digits.
#[must_use]
pub fn to_text(value: Option<&Value>) -> String {
    let mut text = String::new();
    write_text(value, &mut text);
    text
}

/// As [`to_text`], appended to `out`.
pub fn write_text(value: Option<&Value>, out: &mut String) {
    match value {
        None => out.push_str("undefined"),
        Some(Value::Null) => out.push_str("null"),
        Some(Value::Bool(truth)) => out.push_str(if *truth { "true" } else { "false" }),
        Some(Value::Number(number)) => write_number(number, out),
        Some(Value::String(text)) => out.push_str(text),
        Some(Value::Array(items)) => join(items, out),
        Some(Value::Object(_)) => out.push_str("[object Object]"),
    }
}

/// Joins without recursion, so that the nesting of a value does not matter.
fn join(items: &[Value], out: &mut String) {
    let mut open = vec![items.iter().enumerate()];
    while let Some(items) = open.last_mut() {
        let Some((index, item)) = items.next() else {
            open.pop();
            continue;
        };
        if index > 0 {
            out.push(',');
        }
        match item {
            Value::Null => {}
            Value::Array(inner) => open.push(inner.iter().enumerate()),
            Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Object(_) => {
                write_text(Some(item), out);
            }
        }
    }
}

fn write_number(number: &Number, out: &mut String) {
    // Writing to a `String` does not fail.
    let written = match (number.as_i64(), number.as_u64(), number.as_f64()) {
        (Some(integer), _, _) => write!(out, "{integer}"),
        (None, Some(integer), _) => write!(out, "{integer}"),
        (None, None, Some(float)) => {
            write_float(float, out);
            Ok(())
        }
        (None, None, None) => write!(out, "{number}"),
    };
    debug_assert!(written.is_ok());
}

/// `Number.prototype.toString` of ECMA-262 for radix 10.
fn write_float(float: f64, out: &mut String) {
    if float == 0.0 {
        out.push('0');
        return;
    }
    // Rust gives the shortest digits that read back as the same number, as JavaScript does; only the layout differs.
    let scientific = format!("{float:e}");
    let Some((mantissa, exponent)) = scientific.split_once('e') else {
        out.push_str(&scientific); // NaN and infinities: no JSON number is one
        return;
    };
    let exponent: i32 = exponent.parse().unwrap_or(0);
    let (sign, mantissa) = mantissa.strip_prefix('-').map_or(("", mantissa), |rest| ("-", rest));
    let digits: String = mantissa.chars().filter(char::is_ascii_digit).collect();
    let count = i32::try_from(digits.len()).unwrap_or(i32::MAX);
    let point = exponent + 1;
    out.push_str(sign);
    if count <= point && point <= DECIMAL_DIGITS_MAX {
        out.push_str(&digits);
        out.extend((count..point).map(|_| '0'));
    } else if 0 < point && point <= DECIMAL_DIGITS_MAX {
        let (whole, fraction) = digits.split_at(usize::try_from(point).unwrap_or(0));
        out.push_str(whole);
        out.push('.');
        out.push_str(fraction);
    } else if DECIMAL_EXPONENT_MIN < point && point <= 0 {
        out.push_str("0.");
        out.extend((point..0).map(|_| '0'));
        out.push_str(&digits);
    } else {
        let (first, fraction) = digits.split_at(1);
        out.push_str(first);
        if !fraction.is_empty() {
            out.push('.');
            out.push_str(fraction);
        }
        out.push_str(if exponent < 0 { "e-" } else { "e+" });
        out.push_str(&exponent.unsigned_abs().to_string());
    }
}

/// `left === right` for two JSON values: numbers by value (`1` is `1.0`); objects and arrays are never equal, as two
/// JSON values are never the same object.
#[must_use]
pub fn strict_equals(left: &Value, right: &Value) -> bool {
    match (left, right) {
        (Value::Null, Value::Null) => true,
        (Value::Bool(left), Value::Bool(right)) => left == right,
        (Value::String(left), Value::String(right)) => left == right,
        (Value::Number(left), Value::Number(right)) => compare_numbers(left, right) == Some(Ordering::Equal),
        _ => false,
    }
}

/// The order that `<` and `>` of JavaScript use. Two strings: by UTF-16 units; else both become numbers (null 0, true 1,
/// `"12"` 12, `""` 0; arrays and objects by their text). `None` when one is no number (`"x"`, an absent value): then
/// `<`, `<=`, `>` and `>=` are all false.
#[must_use]
pub fn compare(left: Option<&Value>, right: Option<&Value>) -> Option<Ordering> {
    match (Primitive::of(left?), Primitive::of(right?)) {
        (Primitive::Text(left), Primitive::Text(right)) => {
            Some(left.encode_utf16().cmp(right.encode_utf16()))
        }
        (Primitive::Text(text), Primitive::Number(right)) => {
            text_to_number(&text)?.partial_cmp(&as_f64(&right)?)
        }
        (Primitive::Number(left), Primitive::Text(text)) => {
            as_f64(&left)?.partial_cmp(&text_to_number(&text)?)
        }
        (Primitive::Number(left), Primitive::Number(right)) => compare_numbers(&left, &right),
    }
}

/// Whether `if (value)` would be taken.
#[must_use]
pub fn truthy(value: Option<&Value>) -> bool {
    match value {
        None | Some(Value::Null) => false,
        Some(Value::Bool(truth)) => *truth,
        Some(Value::Number(number)) => as_f64(number).is_some_and(|number| number != 0.0),
        Some(Value::String(text)) => !text.is_empty(),
        Some(Value::Array(_) | Value::Object(_)) => true,
    }
}

/// What is left of a value before JavaScript compares it.
enum Primitive {
    Text(String),
    Number(Number),
}

impl Primitive {
    fn of(value: &Value) -> Self {
        match value {
            Value::Null => Self::Number(0.into()),
            Value::Bool(truth) => Self::Number(u8::from(*truth).into()),
            Value::Number(number) => Self::Number(number.clone()),
            Value::String(_) | Value::Array(_) | Value::Object(_) => Self::Text(to_text(Some(value))),
        }
    }
}

fn as_f64(number: &Number) -> Option<f64> {
    number.as_f64().filter(|number| !number.is_nan())
}

/// Integers exactly (JavaScript would round them beyond 2^53), anything else as doubles.
fn compare_numbers(left: &Number, right: &Number) -> Option<Ordering> {
    match (as_integer(left), as_integer(right)) {
        (Some(left), Some(right)) => Some(left.cmp(&right)),
        (Some(_) | None, _) => as_f64(left)?.partial_cmp(&as_f64(right)?),
    }
}

fn as_integer(number: &Number) -> Option<i128> {
    number.as_i64().map(i128::from).or_else(|| number.as_u64().map(i128::from))
}

/// `Number(text)`; `None` for NaN.
fn text_to_number(text: &str) -> Option<f64> {
    let text = text.trim_matches(|c: char| c.is_whitespace() || c == '\u{feff}');
    match text {
        "" => return Some(0.0),
        "Infinity" | "+Infinity" => return Some(f64::INFINITY),
        "-Infinity" => return Some(f64::NEG_INFINITY),
        _ => {}
    }
    for (prefix, radix) in [("0x", 16), ("0X", 16), ("0o", 8), ("0O", 8), ("0b", 2), ("0B", 2)] {
        if let Some(digits) = text.strip_prefix(prefix) {
            return radix_to_number(digits, radix);
        }
    }
    // Rust also reads `inf` and `nan`, which JavaScript does not.
    let decimal = text.bytes().all(|byte| byte.is_ascii_digit() || b"+-.eE".contains(&byte));
    if decimal { text.parse().ok() } else { None }
}

fn radix_to_number(digits: &str, radix: u32) -> Option<f64> {
    if digits.is_empty() {
        return None;
    }
    digits
        .chars()
        .try_fold(0.0, |sum, digit| Some(sum * f64::from(radix) + f64::from(digit.to_digit(radix)?)))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn text_is_javascripts() {
        for (value, wanted) in [
            (json!(1.0), "1"),
            (json!(-0.0), "0"),
            (json!(1e21), "1e+21"),
            (json!(1e20), "100000000000000000000"),
            (json!(-1.5e300), "-1.5e+300"),
            (json!(0.000001), "0.000001"),
            (json!(0.0000001), "1e-7"),
            (json!(1.25e-10), "1.25e-10"),
            (json!(3.0 * 29.99), "89.97"),
            (json!(10.0 * 4.99), "49.900000000000006"),
            (json!(123.456), "123.456"),
            (json!(9_007_199_254_740_993_i64), "9007199254740993"),
            (json!(u64::MAX), "18446744073709551615"),
            (json!(i64::MIN), "-9223372036854775808"),
            (json!(true), "true"),
            (json!(null), "null"),
            (json!("x"), "x"),
            (json!([1, null, "a", [2, [3, null]], {}]), "1,,a,2,3,,[object Object]"),
            (json!([]), ""),
            (json!([[], []]), ","),
            (json!({"a": 1}), "[object Object]"),
        ] {
            assert_eq!(to_text(Some(&value)), wanted, "{value}");
        }
        assert_eq!(to_text(None), "undefined");
    }

    #[test]
    fn equality_is_strict() {
        for (left, right, wanted) in [
            (json!(1), json!(1.0), true),
            (json!(0), json!(-0.0), true),
            (json!("1"), json!(1), false),
            (json!(null), json!(null), true),
            (json!(null), json!(0), false),
            (json!(true), json!(1), false),
            (json!({}), json!({}), false),
            (json!([1]), json!([1]), false),
            (json!(9_007_199_254_740_993_i64), json!(9_007_199_254_740_992_i64), false),
        ] {
            assert_eq!(strict_equals(&left, &right), wanted, "{left} === {right}");
        }
    }

    #[test]
    fn order_coerces_as_javascript_does() {
        use Ordering::{Equal, Greater, Less};
        for (left, right, wanted) in [
            (json!(2), json!(10), Some(Less)),
            (json!("2"), json!("10"), Some(Greater)),
            (json!("2"), json!(10), Some(Less)),
            (json!(null), json!(0), Some(Equal)),
            (json!(true), json!(1), Some(Equal)),
            (json!(""), json!(0), Some(Equal)),
            (json!(" 12\n"), json!(12), Some(Equal)),
            (json!("0x10"), json!(16), Some(Equal)),
            (json!("-0x10"), json!(-16), None),
            (json!("x"), json!(1), None),
            (json!("inf"), json!(1), None),
            (json!("Infinity"), json!(1), Some(Greater)),
            (json!([2]), json!(1), Some(Greater)),
            (json!({}), json!(1), None),
            (json!({}), json!("[object Object]"), Some(Equal)),
            // U+FF5E sorts after the surrogates of U+1F600 by UTF-16 units, but before it by scalar value.
            (json!("\u{ff5e}"), json!("\u{1f600}"), Some(Greater)),
        ] {
            assert_eq!(compare(Some(&left), Some(&right)), wanted, "{left} <> {right}");
        }
        assert_eq!(compare(None, Some(&json!(1))), None);
        assert_eq!(compare(None, None), None);
    }

    #[test]
    fn truth_is_javascripts() {
        for value in [json!(null), json!(false), json!(0), json!(-0.0), json!("")] {
            assert!(!truthy(Some(&value)), "{value}");
        }
        for value in [json!(true), json!(-1), json!("0"), json!([]), json!({})] {
            assert!(truthy(Some(&value)), "{value}");
        }
        assert!(!truthy(None));
    }
}
