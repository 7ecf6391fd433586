"""From a handle, its options and arguments to a call on its way."""

from __future__ import annotations

from typing import Any

from salver.data.calls.call import Call, Send
from salver.data.calls.streamed_call import StreamedCall
from salver.data.context import new_request_id, request_context
from salver.data.current import call_site
from salver.serve.handles.arguments import dump_arguments, hold_response, start_when_resolved
from salver.serve.handles.options import HandleOptions
from salver.serve.handles.response import DeploymentResponse, DeploymentResponseGenerator
from salver.wire.messages import CallMeta


def begin_call(
    key: str, options: HandleOptions, args: tuple[Any, ...], kwargs: dict[str, Any], send: Send | None = None
) -> DeploymentResponse[Any] | DeploymentResponseGenerator[Any]:
    """Call the deployment ``key`` (``app#name``), from any thread.

    Args:
        send: how it is sent, on the loop of the call site; by default to any replica.

    Raises:
        SerializationError: an argument cannot be pickled.
        RuntimeError: an argument is a stream.
    """
    site = call_site()
    context = request_context.get()
    callee = f"{key.partition('#')[2]}.{options.method_name}"
    try:
        has_responses = hold_response(args) | (bool(kwargs) and hold_response(kwargs))
    except RecursionError:  # nested too deep to be looked into, or within itself: pickle decides what can be sent
        has_responses = False
    payload = b"" if has_responses else dump_arguments(callee, args, kwargs)
    meta = call_meta(options)
    response: DeploymentResponse[Any] | DeploymentResponseGenerator[Any]
    if options.stream:
        call = StreamedCall(site, key, meta, context.deadline, send)
        response = DeploymentResponseGenerator(call)
    else:
        call = Call(site, key, meta, context.deadline, send)
        response = DeploymentResponse(call)
    if has_responses:
        site.run(start_when_resolved, call, callee, args, kwargs)
    else:
        site.run(call.start, payload)
    return response


def call_meta(options: HandleOptions) -> CallMeta:
    """What is called, for the request that the current code works for."""
    context = request_context.get()
    return CallMeta(
        options.method_name,
        context.request_id or new_request_id(),
        context.route,
        context.app_name,
        0.0,  # what remains is known when it is sent
        options.stream,
        options.multiplexed_model_id,
        options.session_id,
    )
