//! The JSON of `lgd eval`.

use serde_json::Value;

use crate::text::percent;

/// Student and teacher by one protocol.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Judged {
    /// Categories, classes or neighbors.
    pub choices: Option<u64>,
    /// The student's percentage.
    pub student: Option<f64>,
    /// The teacher's percentage.
    pub teacher: Option<f64>,
    /// How often both choose the same, 0 to 100.
    pub agreement: Option<f64>,
    /// Other figures in words.
    pub more: Vec<String>,
    /// Figures of each class.
    pub per_class: Vec<ClassFigure>,
    /// How often each class was taken for each.
    pub confusion: Option<Confusion>,
}

/// Figures of a class.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct ClassFigure {
    /// Its name.
    pub name: String,
    /// Its images.
    pub images: Option<u64>,
    /// The student's percentage.
    pub student: Option<f64>,
    /// The teacher's percentage.
    pub teacher: Option<f64>,
}

/// How often each class was taken for each.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Confusion {
    /// Names of the classes.
    pub classes: Vec<String>,
    /// True class, predicted class and number of images; other pairs have none.
    pub pairs: Vec<(usize, usize, u64)>,
}

/// A linear probe.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Probe {
    /// Share of the training labels.
    pub fraction: f64,
    /// The student's percentage.
    pub student: f64,
}

/// A set of images.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct ImageSet {
    /// Path.
    pub path: String,
    /// Images used.
    pub images: Option<u64>,
    /// Images that could not be used.
    pub rejects: usize,
    /// The view shown, in words.
    pub view: String,
}

/// An evaluation.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Eval {
    /// Hash of the run's manifest.
    pub run: Option<String>,
    /// Notes of the command.
    pub notes: Vec<String>,
    /// Images that were classified.
    pub test: Option<ImageSet>,
    /// Images whose labels were known.
    pub train: Option<ImageSet>,
    /// Zero-shot by a bank's names.
    pub zero_shot: Option<Judged>,
    /// Same choice as the teacher.
    pub agreement: Option<Judged>,
    /// The student's own classifier.
    pub labels: Option<Judged>,
    /// Nearest neighbors.
    pub knn: Option<Judged>,
    /// Linear probes.
    pub linear: Vec<Probe>,
    /// Images per second.
    pub images_per_second: Option<f64>,
    /// Seconds.
    pub seconds: Option<f64>,
}

impl Eval {
    /// Takes the known fields of the JSON.
    pub(crate) fn parse(value: &Value) -> Self {
        let probes = value["linear"].as_array().into_iter().flatten();
        let probes = probes.filter_map(|probe| {
            let (fraction, student) = (probe["fraction"].as_f64()?, probe["student"].as_f64()?);
            Some(Probe { fraction, student })
        });
        Self {
            run: text(&value["run"]),
            notes: value["notes"].as_array().into_iter().flatten().filter_map(text).collect(),
            test: images(&value["test"]),
            train: images(&value["train"]),
            zero_shot: judged(&value["zero_shot"]),
            agreement: judged(&value["agreement"]),
            labels: judged(&value["labels"]),
            knn: judged(&value["knn"]),
            linear: probes.collect(),
            images_per_second: value["images_per_second"].as_f64(),
            seconds: value["seconds"].as_f64(),
        }
    }

    /// The protocols with their names.
    pub(crate) fn protocols(&self) -> [(&'static str, Option<&Judged>); 4] {
        [
            ("zero-shot", self.zero_shot.as_ref()),
            ("agreement", self.agreement.as_ref()),
            ("labels", self.labels.as_ref()),
            ("kNN", self.knn.as_ref()),
        ]
    }
}

fn text(value: &Value) -> Option<String> {
    value.as_str().map(str::to_owned)
}

fn images(value: &Value) -> Option<ImageSet> {
    Some(ImageSet {
        path: text(&value["path"])?,
        images: value["images"].as_u64(),
        rejects: value["rejects"].as_array().map_or(0, Vec::len),
        view: text(&value["view"]).unwrap_or_default(),
    })
}

fn judged(value: &Value) -> Option<Judged> {
    value.as_object()?;
    let choices = ["categories", "classes", "neighbors"].iter().find_map(|name| value[*name].as_u64());
    let per_class: Vec<ClassFigure> =
        value["per_class"].as_array().into_iter().flatten().filter_map(class_figure).collect();
    Some(Judged {
        choices,
        student: value["student"].as_f64(),
        teacher: value["teacher"].as_f64(),
        agreement: value["agreement"].as_f64(),
        more: more(value),
        confusion: confusion(&value["confusion"], &per_class),
        // A class without a test image, which was only predicted, has no figure.
        per_class: per_class.into_iter().filter(|class| class.student.is_some()).collect(),
    })
}

/// Figures beside top-1 in words.
fn more(value: &Value) -> Vec<String> {
    let interval = value["interval"][0].as_f64().zip(value["interval"][1].as_f64());
    let interval = interval.map(|(low, high)| format!("95% interval {} to {}", percent(low), percent(high)));
    let percentages = [("top5", "top-5"), ("mean_per_class", "mean of the names")];
    let percentages = percentages.iter().filter_map(|(field, name)| {
        value[*field].as_f64().map(|value| format!("{name} {}%", percent(value)))
    });
    let calibration = value["ece"].as_f64().map(|error| format!("calibration error {error:.3}"));
    interval.into_iter().chain(percentages).chain(calibration).collect()
}

fn class_figure(value: &Value) -> Option<ClassFigure> {
    Some(ClassFigure {
        name: text(&value["name"])?,
        images: value["images"].as_u64(),
        student: value["accuracy"].as_f64().or(value["student"].as_f64()),
        teacher: value["teacher"].as_f64(),
    })
}

/// Triples of true class, predicted class and images, with numbers of `classes`; `None` if there are none or a number is no
/// class.
fn confusion(value: &Value, classes: &[ClassFigure]) -> Option<Confusion> {
    let number = |value: &Value| usize::try_from(value.as_u64()?).ok().filter(|&class| class < classes.len());
    let pair = |entry: &Value| Some((number(&entry[0])?, number(&entry[1])?, entry[2].as_u64()?));
    let pairs: Vec<_> = value.as_array()?.iter().map(pair).collect::<Option<_>>()?;
    let classes = classes.iter().map(|class| class.name.clone()).collect();
    (!pairs.is_empty()).then_some(Confusion { classes, pairs })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn known_fields_are_taken_and_others_are_no_error() {
        let value = json!({
            "run": "ab", "linear": [{"fraction": 0.1, "student": 30.0}, {"fraction": "?"}], "seconds": 2,
            "zero_shot": {
                "categories": 2, "student": 50.0, "teacher": null, "top5": 90.5, "ece": 0.0712, "interval": [40.0, 60.25],
                "per_class": [
                    {"name": "cat", "images": 3, "accuracy": 66.7}, {"images": 1}, {"name": "dog", "images": 0, "accuracy": null},
                ],
                "confusion": [[0, 0, 2], [0, 1, 1]],
            },
            "knn": 3,
        });
        let eval = Eval::parse(&value);
        let judged = eval.zero_shot.clone().unwrap();
        assert_eq!((judged.choices, judged.student, judged.teacher), (Some(2), Some(50.0), None));
        assert_eq!(judged.more, ["95% interval 40.0 to 60.2", "top-5 90.5%", "calibration error 0.071"]);
        assert_eq!(judged.per_class.len(), 1);
        let confusion = judged.confusion.unwrap();
        assert_eq!((confusion.classes.len(), confusion.pairs), (2, vec![(0, 0, 2), (0, 1, 1)]));
        assert_eq!((eval.linear.len(), eval.knn, eval.seconds), (1, None, Some(2.0)));
        assert_eq!(Eval::parse(&json!([])), Eval::default());
    }

    #[test]
    fn pairs_of_unknown_classes_are_left_out() {
        let classes = [ClassFigure { name: "cat".to_owned(), ..ClassFigure::default() }];
        for pairs in [json!([[0, 1, 1]]), json!([[0, 0]]), json!([]), json!("none")] {
            assert_eq!(confusion(&pairs, &classes), None);
        }
    }
}
