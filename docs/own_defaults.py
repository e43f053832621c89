"""Parameters that a docstring names in one line each keep a type and a default of their own.

griffe gives all of them those of the first, so that a page would say of `scale` that it is by default "group".
"""

import griffe


class OwnDefaults(griffe.Extension):
    """Take type and default of each parameter from the signature, which has them right."""

    def on_function(self, *, func: griffe.Function, **kwargs) -> None:
        for section in func.docstring.parsed if func.docstring else ():
            if section.kind is griffe.DocstringSectionKind.parameters:
                for told in section.value:
                    if told.name in func.parameters:
                        own = func.parameters[told.name]
                        told.annotation, told.value = own.annotation, own.default
