"""Asks for what an operation needs (a file, a bound, what a file does not say), then calls it."""

from gui.dialogs.data import ask_data as ask_data
from gui.dialogs.files import ask_export_checkpoint as ask_export_checkpoint
from gui.dialogs.files import ask_export_onnx as ask_export_onnx
from gui.dialogs.files import ask_export_program as ask_export_program
from gui.dialogs.files import ask_factory as ask_factory
from gui.dialogs.files import ask_file as ask_file
from gui.dialogs.files import ask_map as ask_map
from gui.dialogs.files import ask_recipe as ask_recipe
from gui.dialogs.files import ask_save_description as ask_save_description
from gui.dialogs.files import ask_save_map as ask_save_map
from gui.dialogs.files import ask_save_recipe as ask_save_recipe
from gui.dialogs.files import open_path as open_path
from gui.dialogs.information import show_broken as show_broken
from gui.dialogs.information import show_information as show_information
from gui.dialogs.limits import ask_limit as ask_limit
from gui.dialogs.missing import answer as answer
from gui.dialogs.missing import ask_to_run as ask_to_run
from gui.dialogs.training import ask_to_stop as ask_to_stop
