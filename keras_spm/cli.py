"""The command `keras-spm`, see `keras-spm --help`."""

import argparse
import importlib
import importlib.util
import json
import os
import pathlib
import sys
import traceback

import keras

from keras_spm import demo, export_command, trainer
from keras_spm.backend import replicas
from keras_spm.data.report import describe_data, report_text
from keras_spm.export import ExportError
from keras_spm.files import atomic_write, check_writable
from keras_spm.launch import add_devices, run_on_devices, writer_output
from keras_spm.prediction import add_predict_arguments, print_predictions
from keras_spm.registry import RECIPES
from keras_spm.terminal import printable, tolerant_output

_LINE_BREAK = "\n"
_EXTRAS = "coco,data,export,plot"  # All optional packages that the commands import.
_ERRORS = (ImportError, OSError, TypeError, ValueError, ExportError, trainer.TrainingError)


def main(arguments: list[str] | None = None) -> int:
    """Runs the command with the arguments of the process, by default.

    Returns:
        The exit status: 0; 1 if `predict` could not read all images; 2 after an error; 130 after
        an interrupt (Ctrl-C).
    """
    with tolerant_output():
        options = _parser().parse_args(arguments)
        try:
            for name in options.imports:
                _import(name)
            return run_on_devices(options.run, options, arguments) or 0
        except KeyboardInterrupt:
            message = "interrupted"
            if options.run is _train and not options.dry_run:
                message += "; run the same command again to resume the training"
            print(message, file=sys.stderr)
            return 130
        except Exception as error:
            if not getattr(error, "is_reported", False):  # By another process.
                print(f"error: {printable(_message(error), keep=_LINE_BREAK)}", file=sys.stderr)
            return 2


def _message(error):
    if isinstance(error, ModuleNotFoundError):
        return f'{error}: pip install "keras-spm[{_EXTRAS}]"'
    if isinstance(error, _ERRORS):
        return str(error) or repr(error)
    if isinstance(error, SyntaxError):  # Says where it is.
        return f"SyntaxError: {error}"
    # Of a recipe or model of the user's own, or a defect: where it was raised.
    place = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__}: {error} ({place.filename}, line {place.lineno})"


def _parser():
    parser = argparse.ArgumentParser(
        prog="keras-spm", description="Train, evaluate and use keras_spm models."
    )
    commands = parser.add_subparsers(required=True, metavar="command")
    for name, (summary, add_arguments, run) in _COMMANDS.items():
        command = commands.add_parser(name, help=summary, description=f"{summary.capitalize()}.")
        add_arguments(command)
        command.add_argument(
            "--import",
            dest="imports",
            action="append",
            default=[],
            metavar="MODULE_OR_FILE",
            help="Python module or file with your own models or recipes, imported first",
        )
        command.set_defaults(run=run)
    return parser


def _import(name):
    """Imports a module, or a Python file under its name without `.py`."""
    if not name.endswith(".py"):
        if os.getcwd() not in sys.path:
            sys.path.append(os.getcwd())
        importlib.import_module(name)
        return
    path = pathlib.Path(name).resolve()
    known = sys.modules.get(path.stem)
    if getattr(known, "__file__", None) == str(path):
        return
    if known is not None or path.stem in sys.stdlib_module_names:
        raise ValueError(f"{path} must have another name: there is a module {path.stem!r}.")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = sys.modules[path.stem] = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[path.stem]
        raise


def _add_model(parser):
    text = "run folder, .keras file, or preset: its name, folder or hub address"
    parser.add_argument("model", help=text)


def _add_overrides(parser):
    text = "replace a value of the recipe"
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help=text)


def _add_data_format(parser):
    text = "data format, such as coco; by default it is recognized"
    parser.add_argument("--data-format", metavar="FORMAT", help=text)


def _add_train_arguments(parser):
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    format_help = parser.format_help

    def format_help_with_recipes():
        # Not for every command: it reads all recipe files.
        parser.epilog = trainer.describe_recipes()
        return format_help()

    parser.format_help = format_help_with_recipes
    text = "name of a recipe, path of a recipe file (.py), or classification, detection, "
    text += "instances or segmentation for your own data"
    parser.add_argument("recipe", help=text)
    parser.add_argument("--data", metavar="FOLDER", help="folder or file of the data set")
    _add_data_format(parser)
    _add_overrides(parser)
    text = "run folder; by default runs/RECIPE-BACKEND-seedN, with a number after it if there is "
    text += "a run with other settings"
    parser.add_argument("--output", type=pathlib.Path, help=text)
    add_devices(parser)
    text = "print the report of the data and the plan, draw the first batch, and do not train"
    parser.add_argument("--dry-run", action="store_true", help=text)


def _train(options):
    recipe = trainer.load_recipe(options.recipe, _train_overrides(options))
    name = f"{pathlib.Path(options.recipe).stem}-{keras.config.backend()}-seed{recipe.seed}"
    path = options.output or pathlib.Path("runs", name)
    if replicas.current() is not None:
        print(replicas.current().describe(recipe.batch_size), flush=True)
    if options.dry_run:
        picture = path.with_name(f"{path.name}-dry-run.png")
        print(printable(trainer.dry_run(recipe, picture), keep=_LINE_BREAK))
        return
    folder, result = trainer.find_run(path, recipe, options.output is None)
    if result is not None:
        print(f"{folder.path} is already finished. Delete it to train again.")
    else:
        result = trainer.run(recipe, folder, verbose=1 if sys.stdout.isatty() else 2)
    _print_metrics({name.replace("_", " "): value for name, value in result.items()})
    files = ", ".join(sorted(path.name for path in folder.path.iterdir()))
    print(printable(f"see {folder.path}: {files}"))


def _train_overrides(options):
    given = {"data_folder": options.data, "dataset": options.data_format}
    return [*(f"{key}={value}" for key, value in given.items() if value), *options.set]


def _add_data_arguments(parser):
    parser.add_argument("folder", help="folder or file of the data set")
    text = "what the folder is for; by default all but instances, if it is for detection too"
    parser.add_argument("--task", choices=list(RECIPES), help=text)
    _add_data_format(parser)
    _add_overrides(parser)
    parser.add_argument("--json", action="store_true", help="print the whole report as JSON")


def _data(options):
    options.data = options.folder
    tasks = [options.task] if options.task else trainer.recognized_tasks(options.folder)
    for task in tasks:
        recipe = trainer.load_recipe(task, _train_overrides(options))
        report = describe_data(recipe.splits())
        if options.json:
            print(json.dumps({"task": task, **report}))
        else:
            print(printable(f"{task}\n{report_text(report)}", keep=_LINE_BREAK))


def _add_evaluate_arguments(parser):
    _add_model(parser)
    text = "data set to use instead of the recipe's: its test split, or all images"
    parser.add_argument("--data", metavar="FOLDER", help=text)
    text = "recipe whose data set is used; by default the run's, or the task's"
    parser.add_argument("--recipe", help=text)
    _add_overrides(parser)
    text = "JSON file for the metrics"
    parser.add_argument("--output", type=pathlib.Path, metavar="FILE", help=text)
    add_devices(parser)


def _evaluate(options):
    if options.output:
        check_writable(options.output)
    model = trainer.load_task(options.model)
    recipe = trainer.find_recipe(model, options.model, options.recipe, options.data, options.set)
    metrics = trainer.evaluate(model, recipe)
    _print_metrics({name: value for name, value in metrics.items() if "/" not in name})
    if options.output and replicas.is_writer():
        source = {"model": options.model, "dataset": recipe.dataset}
        source["data_folder"] = recipe.data_folder
        text = json.dumps({**source, **metrics}, indent=2, ensure_ascii=False)
        # Names of files that are not UTF-8 are escaped, as JSON does.
        with atomic_write(options.output) as temporary:
            temporary.write_text(text + "\n", encoding="utf-8", errors="backslashreplace")


def _print_metrics(metrics):
    print("\n".join(f"{printable(name)}: {value:.5g}" for name, value in metrics.items()))


def _add_predict_arguments(parser):
    _add_model(parser)
    add_predict_arguments(parser)
    add_devices(parser)


def _predict(options):
    model = trainer.load_task(options.model)
    names = ("tile", "overlap", "tta")
    given = {name: getattr(options, name) for name in names if getattr(options, name) is not None}
    with writer_output(options.output) as output:
        unreadable = print_predictions(
            model,
            options.images,
            options.top,
            options.score_threshold,
            output,
            options.json,
            options.format,
            given,
        )
    return int(unreadable > 0)


def _add_export_arguments(parser):
    _add_model(parser)
    export_command.add_arguments(parser)


def _add_demo_arguments(parser):
    text = "run folders, .keras files, or presets; by default pvt_v2_b1"
    parser.add_argument("models", nargs="*", default=["pvt_v2_b1"], metavar="model", help=text)
    text = "port of the page on this machine; by default 8000, 0 for any free one"
    parser.add_argument("--port", type=int, default=8000, help=text)


def _demo(options):
    demo.serve({name: trainer.load_task(name) for name in options.models}, options.port)


# {name: (summary, function that adds arguments, function of the parsed options)}
_COMMANDS = {
    "train": ("train by a recipe and write a run folder", _add_train_arguments, _train),
    "data": ("print the report of a data set", _add_data_arguments, _data),
    "evaluate": ("evaluate a model on a data set", _add_evaluate_arguments, _evaluate),
    "predict": ("run a model on images", _add_predict_arguments, _predict),
    "demo": ("show what models predict on a local page", _add_demo_arguments, _demo),
    "export": (
        "export a model for another runtime, or its weights for PyTorch",
        _add_export_arguments,
        export_command.run,
    ),
}
