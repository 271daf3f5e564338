"""Graphs that break a rule: what they are told, to the letter.

Each row is a kind of mistake, the graph (in the short form of `chain`, or as DOT statements) and every complaint.
"""

from __future__ import annotations

import pytest

from tests.unit.graph.units import chain, problems

RULES: list[tuple[str, str, list[str]]] = [
    # ---- levels that never meet-----------------------------------------------------------------------
    (
        "an expanded stream and the one before it",
        "src expand join.a; src join.b; join sink",
        [
            "g.toml:4:74: node:join has different level links, pls check the input links. (a <- expand:out <- src:out is at source src > expand expand; b <- src:out is at source src)",
        ],
    ),
    (
        "two sources",
        "src1 join.a; src2 join.b; join sink",
        [
            "g.toml:4:49: node:join has different level links, pls check the input links. (a <- src1:out is at source src1; b <- src2:out is at source src2)",
        ],
    ),
    (
        "an input of the graph and another source",
        "input1 join.a; src join.b; join output1",
        [
            "g.toml:4:49: node:join has different level links, pls check the input links. (a <- input1:input is at type=input; b <- src:out is at source src)",
        ],
    ),
    (
        "two expands on two ports",
        "src expand1 join.a; src expand2 join.b; join collapse sink",
        [
            "g.toml:4:75: node:join has different level links, pls check the input links. (a <- expand1:out <- src:out is at source src > expand expand1; b <- expand2:out <- src:out is at source src > expand expand2)",
        ],
    ),
    (
        "two expands on one port",
        "src expand1 work; src expand2 work collapse sink",
        [
            "g.toml:4:246: node 'work' port 'in': One port links multi edges can not match at one port: expand1:out and expand2:out (an input takes one edge; only the branches of one condition may meet)",
        ],
    ),
    (
        "two expands on one port, where a condition is near",
        "src expand1 work; src expand2 work collapse branch:yes sink; branch:no sink",
        [
            "g.toml:4:75: node 'work' port 'in': One port links multi edges can not match at one port: expand1:out and expand2:out (only the branches of one condition may meet: expand1:out is at source src > expand expand1; expand2:out is at source src > expand expand2)",
        ],
    ),
    (
        "a jump into an expand section",
        "src expand work1 join.a; src work2 join.b; join collapse sink",
        [
            "g.toml:4:97: node:join has different level links, pls check the input links. (a <- work1:out <- expand:out <- src:out is at source src > expand expand; b <- work2:out <- src:out is at source src)",
        ],
    ),
    (
        "a jump out of an expand section",
        "src expand work1 collapse join.a; work1 join.b; join sink",
        [
            "g.toml:4:127: node:join has different level links, pls check the input links. (a <- collapse:out <- work1:out <- expand:out <- src:out is at source src; b <- work1:out <- expand:out <- src:out is at source src > expand expand)",
        ],
    ),
    (
        "one level of two collapsed",
        "src expand1 expand2 collapse1 join.a; src join.b; join sink",
        [
            "g.toml:4:133: node:join has different level links, pls check the input links. (a <- collapse1:out <- expand2:out <- expand1:out <- src:out is at source src > expand expand1; b <- src:out is at source src)",
        ],
    ),
    (
        "siblings of one expand, one of them expanded again",
        "src expand1 join.a; expand1 expand2 join.b; join collapse sink",
        [
            "g.toml:4:75: node:join has different level links, pls check the input links. (a <- expand1:out <- src:out is at source src > expand expand1; b <- expand2:out <- expand1:out <- src:out is at source src > expand expand1 > expand expand2)",
        ],
    ),
    # ---- branches-------------------------------------------------------------------------------------
    (
        "a jump into a branch",
        "src branch:yes join.a; src join.b; join sink; branch:no sink",
        [
            "g.toml:4:74: node:join has different level links, pls check the input links. (a <- branch:yes <- src:out is at source src > condition branch:yes; b <- src:out is at source src)",
        ],
    ),
    (
        "a jump out of a branch",
        "src branch:yes work1 sink; branch:no work2 sink; work1 join.a; src join.b; join sink2",
        [
            "g.toml:4:142: node:join has different level links, pls check the input links. (a <- work1:out <- branch:yes <- src:out is at source src > condition branch:yes; b <- src:out is at source src)",
        ],
    ),
    (
        "branches that meet on two ports",
        "src branch:yes join.a; branch:no join.b; join sink",
        [
            "g.toml:4:74: node 'join' ports 'a' and 'b': match from multi ports at branch, branch can not be if-else node (a <- branch:yes <- src:out is at source src > condition branch:yes; b <- branch:no <- src:out is at source src > condition branch:no)",
        ],
    ),
    (
        "branches that meet on two ports, one of them longer",
        "src branch:yes work1 work2 join.a; branch:no join.b; join sink",
        [
            "g.toml:4:120: node 'join' ports 'a' and 'b': match from multi ports at branch, branch can not be if-else node (a <- work2:out <- work1:out <- branch:yes <- src:out is at source src > condition branch:yes; b <- branch:no <- src:out is at source src > condition branch:no)",
        ],
    ),
    (
        "a branch and the stream before it on one port",
        "src branch:yes sink; branch:no sink; src sink",
        [
            "g.toml:4:74: node 'sink' port 'in': One port links multi edges can not match at one port: branch:yes and branch:no and src:out (only the branches of one condition may meet: branch:yes is at source src > condition branch:yes; branch:no is at source src > condition branch:no; src:out is at source src)",
        ],
    ),
    (
        "one branch twice on one port",
        "src branch:yes work1 sink; branch:yes sink; branch:no sink",
        [
            "g.toml:4:97: node 'sink' port 'in': One port links multi edges can not match at one port: work1:out and branch:yes and branch:no (only the branches of one condition may meet: work1:out is at source src > condition branch:yes; branch:yes is at source src > condition branch:yes; branch:no is at source src > condition branch:no)",
        ],
    ),
    (
        "branches of two conditions on one port",
        "src split:x branch1:yes work; split:y branch2:yes work sink1; branch1:no sink2; branch2:no sink3",
        [
            "g.toml:4:99: node 'work' port 'in': One port links multi edges can not match at one port: branch1:yes and branch2:yes (only the branches of one condition may meet: branch1:yes is at source src > condition branch1:yes; branch2:yes is at source src > condition branch2:yes)",
        ],
    ),
    (
        "branches of two conditions on two ports",
        "src split:x branch1:yes join.a; split:y branch2:yes join.b; join sink1; branch1:no sink2; branch2:no sink3",
        [
            "g.toml:4:99: node:join has different level links, pls check the input links. (a <- branch1:yes <- split:x <- src:out is at source src > condition branch1:yes; b <- branch2:yes <- split:y <- src:out is at source src > condition branch2:yes)",
        ],
    ),
    (
        "branches of a condition inside a branch, met with the outer one",
        "src branch1:yes branch2:yes sink; branch2:no sink; branch1:no sink",
        [
            "g.toml:4:102: node 'sink' port 'in': One port links multi edges can not match at one port: branch2:yes and branch2:no and branch1:no (only the branches of one condition may meet: branch2:yes is at source src > condition branch1:yes > condition branch2:yes; branch2:no is at source src > condition branch1:yes > condition branch2:no; branch1:no is at source src > condition branch1:no)",
        ],
    ),
    (
        "three branches, one of another condition",
        "src triage:one sink; triage:two branch:yes sink; triage:three sink; branch:no sink2",
        [
            "g.toml:4:74: node 'sink' port 'in': One port links multi edges can not match at one port: triage:one and branch:yes and triage:three (only the branches of one condition may meet: triage:one is at source src > condition triage:one; branch:yes is at source src > condition triage:two > condition branch:yes; triage:three is at source src > condition triage:three)",
        ],
    ),
    (
        "an expand that is open where branches meet",
        "src branch:yes expand sink; branch:no sink",
        [
            "g.toml:4:100: node 'sink' port 'in': path branches have unmatched expand node 'expand': expand:out and branch:no (collapse it before the branches meet)",
        ],
    ),
    (
        "expands that are open in both branches",
        "src branch:yes expand1 work; branch:no expand2 work collapse sink",
        [
            "g.toml:4:101: node 'work' port 'in': path branches have unmatched expand node 'expand1': expand1:out and expand2:out (collapse it before the branches meet)",
        ],
    ),
    (
        "branches that meet deeper than they part",
        "src branch:yes expand1 work1; branch:no work1 collapse sink",
        [
            "g.toml:4:101: node 'work1' port 'in': path branches have unmatched expand node 'expand1': expand1:out and branch:no (collapse it before the branches meet)",
        ],
    ),
    # ---- collapse-------------------------------------------------------------------------------------
    (
        "collapse without expand",
        "src collapse sink",
        [
            "g.toml:4:48: node 'collapse': can't find a expand node for collapse (it is at source src)",
        ],
    ),
    (
        "collapse of what is collapsed",
        "src expand collapse1 collapse2 sink",
        [
            "g.toml:4:105: node 'collapse2': can't find a expand node for collapse2 (it is at source src)",
        ],
    ),
    (
        "collapse in a branch of an expand outside",
        "src expand branch:yes collapse sink1; branch:no sink2",
        [
            "g.toml:4:100: node 'collapse': can't find a expand node for collapse (it is at source src > expand expand > condition branch:yes; the branches of branch must meet before)",
        ],
    ),
    (
        "collapse in a branch without expand",
        "src branch:yes collapse sink1; branch:no sink2",
        [
            "g.toml:4:74: node 'collapse': can't find a expand node for collapse (it is at source src > condition branch:yes; the branches of branch must meet before)",
        ],
    ),
    (
        "collapse in a loop of an expand outside",
        "src expand loop:again collapse loop:done sink",
        [
            "g.toml:4:96: node 'collapse': can't find a expand node for collapse (it is at source src > expand expand > loop loop:again)",
        ],
    ),
    # ---- loops----------------------------------------------------------------------------------------
    (
        "a loop without a way back",
        "src loop:again sink1; loop:done sink2",
        [
            "g.toml:4:48: node 'loop': loop node can only link 2 edges at its input, it has 1: src:out (one from outside and one back)",
        ],
    ),
    (
        "a loop with two edges from outside",
        "src split:x loop:again work loop:done sink; split:y loop",
        [
            "g.toml:4:72: node 'loop': loop node can only link 2 edges at its input, it has 3: split:x, work:out, split:y (one from outside and one back; branches of a condition must meet before they come back)",
        ],
    ),
    (
        "a loop with two ways back",
        "src loop:again branch:yes work1 loop:done sink; branch:no loop",
        [
            "g.toml:4:48: node 'loop': loop node can only link 2 edges at its input, it has 3: src:out, work1:out, branch:no (one from outside and one back; branches of a condition must meet before they come back)",
        ],
    ),
    (
        "a loop whose ports both lead back",
        "src loop:again join.a; loop:done join.b; join split:x loop; split:y sink",
        [
            "g.toml:4:48: node 'loop': both output ports of loop lead back to it by split:x (one output port leads back, the other one out)",
        ],
    ),
    (
        "a loop that nothing comes back to",
        "src branch:yes loop:again sink1; branch:no loop:done sink2",
        [
            "g.toml:4:74: node 'loop': no output port of loop leads back to it, by branch:yes or branch:no (one output port leads back, the other one out)",
        ],
    ),
    (
        "a stream unit in a loop",
        "src loop:again stream loop:done sink",
        [
            "g.toml:4:70: node 'stream': stream unit stream is in the body of loop 'loop', where values come in no order (only normal units can be there (stream = false); see stream.so)",
        ],
    ),
    (
        "a Python unit that is a stream in a loop",
        "src loop:again work1 py work2 loop:done sink",
        [
            "g.toml:4:93: node 'py': stream unit py is in the body of loop 'loop', where values come in no order (only normal units can be there (stream = false); see py.so)",
        ],
    ),
    (
        "a stream unit in an expand section of a loop",
        "src loop:again expand stream collapse loop:done sink",
        [
            "g.toml:4:96: node 'stream': stream unit stream is in the body of loop 'loop', where values come in no order (only normal units can be there (stream = false); see stream.so)",
        ],
    ),
    (
        "an expand that is a stream in a loop",
        "src loop:again py_expand py_collapse loop:done sink",
        [
            "g.toml:4:70: node 'py_expand': stream unit py_expand is in the body of loop 'loop', where values come in no order (only normal units can be there (stream = false); see py_expand.so)",
        ],
    ),
    (
        "the body of a loop joined with what is before it",
        "src loop:again join.a; src join.b; join loop:done sink",
        [
            "g.toml:4:70: node:join has different level links, pls check the input links. (a <- loop:again <- src:out is at source src > loop loop:again; b <- src:out is at source src)",
        ],
    ),
    (
        "the body of a loop joined with what is behind it",
        "src loop:again work1 loop:done join.a; work1 join.b; join sink",
        [
            "g.toml:4:93: node:join has different level links, pls check the input links. (a <- loop:done <- src:out is at source src; b <- work1:out <- loop:again <- src:out is at source src > loop loop:again)",
        ],
    ),
    (
        "the body of a loop that a branch leaves",
        "src loop:again branch:yes loop:done sink1; branch:no sink2",
        [
            "g.toml:4:48: node 'loop' port 'in': only one branch of 'branch' leads back to the loop: branch:yes (the branches of branch must meet before; it is at source src > loop loop:again > condition branch:yes)",
            "g.toml:4:119: node 'sink2': is in the body of loop 'loop', but no way leads back from it (what leaves loop to go round must come back to it; what is to go on leaves by its other port)",
        ],
    ),
    (
        "an expand of the body that is open on the way back",
        "src loop:again expand loop:done sink",
        [
            "g.toml:4:48: node 'loop' port 'in': the body of the loop has unmatched expand node 'expand': expand:out (collapse it before the way leads back; it is at source src > loop loop:again > expand expand)",
        ],
    ),
    (
        "a way of the body that ends",
        "src loop:again split:x loop:done sink1; split:y work sink2",
        [
            "g.toml:4:117: node 'work': is in the body of loop 'loop', but no way leads back from it (what leaves loop to go round must come back to it; what is to go on leaves by its other port)",
        ],
    ),
    (
        "a way back from inside of another loop",
        "src loop1:again loop2:again work loop2:done sink1; work loop1:done sink2",
        [
            "g.toml:4:48: node 'loop1' port 'in': the way back begins inside of loop 'loop2': work:out (it must begin behind loop2; it is at source src > loop loop1:again > loop loop2:again)",
            "g.toml:4:116: node 'sink1': is in the body of loop 'loop1', but no way leads back from it (what leaves loop1 to go round must come back to it; what is to go on leaves by its other port)",
        ],
    ),
    (
        "a cycle beside a loop",
        "src join.a; join work join.b; join loop:again loop:done sink",
        [
            "g.toml:4:48: generate topology fail: the graph has a cycle: join -> work -> join (an edge must not lead back to a node before it)",
        ],
    ),
    (
        "a cycle through a loop that nothing feeds",
        "src sink; loop:again work1 loop; loop:done work2 sink2",
        [
            "g.toml:4:70: generate topology fail: the graph has a cycle: loop -> work1 -> loop (an edge must not lead back to a node before it)",
        ],
    ),
    # ---- inputs and outputs of the graph--------------------------------------------------------------
    (
        "outputs behind and before an expand",
        "input1 split:x expand output1; split:y output2",
        [
            "g.toml:4:99: node:output1 has different level links, pls check the input links. (output2 <- split:y <- input1:input is at type=input; output1 <- expand:out <- split:x <- input1:input is at type=input > expand expand; output_type=unmatch hands them out apart)",
        ],
    ),
    (
        "outputs of two branches",
        "input1 branch:yes output1; branch:no output2",
        [
            "g.toml:4:98: node:output2 has different level links, pls check the input links. (output1 <- branch:yes <- input1:input is at type=input > condition branch:yes; output2 <- branch:no <- input1:input is at type=input > condition branch:no; output_type=unmatch hands them out apart)",
        ],
    ),
    (
        "an output in the body of a loop",
        "input1 loop:again split:x loop:done output1; split:y output2",
        [
            "g.toml:4:118: node 'output2': is in the body of loop 'loop', but no way leads back from it (what leaves loop to go round must come back to it; what is to go on leaves by its other port)",
        ],
    ),
    (
        "outputs that match, one too deep, one that does not care",
        "dot:i [type=input]; s [flowunit=split]; e [flowunit=expand]; a [type=output]; b [type=output]; c [type=output, output_type=unmatch]; i -> s:in; s:x -> e:in; e:out -> b; s:y -> a; e:out -> c",
        [
            "g.toml:4:102: node:b has different level links, pls check the input links. (a <- s:y <- i:input is at type=input; b <- e:out <- s:x <- i:input is at type=input > expand e; output_type=unmatch hands them out apart)",
        ],
    ),
    (
        "an edge into an input",
        "dot:s [flowunit=src]; i [type=input]; t [flowunit=sink]; s:out -> i; i -> t:in",
        [
            "g.toml:4:81: dst port is not exist, node: i (input ports of input: none; no edge can end here)",
        ],
    ),
    (
        "an edge out of an output",
        "dot:s [type=input]; o [type=output]; t [flowunit=sink]; s -> o; o -> t:in",
        [
            "g.toml:4:88: src port is not exist, node: o (output ports of output: none; no edge can begin here)",
        ],
    ),
    (
        "a word that is no output type",
        "dot:i [type=input]; o [type=output, output_type=both]; i -> o",
        [
            "g.toml:4:72: node 'o': Invalid Output Type 'both' (match or unmatch)",
        ],
    ),
    (
        "a word that is no input type",
        "dot:i [type=input, input_type=1]; o [type=output]; i -> o",
        [
            "g.toml:4:54: node 'i': Invalid Input Type '1' (match or unmatch)",
        ],
    ),
    (
        "a word that drops nothing",
        "dot:i [type=input, drop=first]; o [type=output]; i -> o",
        [
            "g.toml:4:48: node 'i': Invalid Drop 'first' (oldest or newest)",
        ],
    ),
    # ---- units whose ports do not fit what they are---------------------------------------------------
    (
        "a condition with one output",
        "src bad_condition sink",
        [
            "g.toml:4:48: node 'bad_condition': unit bad_condition has 1 input and 1 output: a condition needs at least 1 input and 2 outputs (see bad_condition.so)",
        ],
    ),
    (
        "a condition without inputs",
        "bad_condition_source:yes sink; bad_condition_source:no sink",
        [
            "g.toml:4:28: node 'bad_condition_source': unit bad_condition_source has 0 inputs and 2 outputs: a condition needs at least 1 input and 2 outputs (see bad_condition_source.so)",
        ],
    ),
    (
        "a loop with three outputs",
        "src bad_loop:again bad_loop; bad_loop:done sink1; bad_loop:never sink2",
        [
            "g.toml:4:48: node 'bad_loop': unit bad_loop has 1 input and 3 outputs: a loop needs exactly 1 input and 2 outputs (see bad_loop.so)",
        ],
    ),
    (
        "a loop with two inputs",
        "src bad_loop_join.a; src bad_loop_join.b; bad_loop_join:again sink1; bad_loop_join:done sink2",
        [
            "g.toml:4:48: node 'bad_loop_join': unit bad_loop_join has 2 inputs and 2 outputs: a loop needs exactly 1 input and 2 outputs (see bad_loop_join.so)",
        ],
    ),
    (
        "a collapse without outputs",
        "src expand bad_collapse",
        [
            "g.toml:4:74: node 'bad_collapse': unit bad_collapse has 1 input and 0 outputs: collapse needs at least 1 input and 1 output (see bad_collapse.so)",
        ],
    ),
    (
        "an expand without inputs",
        "bad_expand collapse sink",
        [
            "g.toml:4:28: node 'bad_expand': unit bad_expand has 0 inputs and 1 output: expand needs at least 1 input and 1 output (see bad_expand.so)",
        ],
    ),
    (
        "an expand that is a collapse",
        "src bad_both sink",
        [
            "g.toml:4:48: node 'bad_both': unit bad_both has 1 input and 1 output: it cannot be both expand and collapse (see bad_both.so)",
        ],
    ),
    # ---- nodes----------------------------------------------------------------------------------------
    (
        "no start",
        "dot:a [flowunit=sink]; b [flowunit=sink]",
        [
            "g.toml:4:28: orphan node: 'a', use graph.strict=false to disable orphan check",
            "g.toml:4:28: start node is not exist. (a graph needs a node whose unit has no inputs)",
            "g.toml:4:47: orphan node: 'b', use graph.strict=false to disable orphan check",
        ],
    ),
    (
        "a node without an edge",
        "dot:s [flowunit=src]; t [flowunit=sink]; o [flowunit=work]; s:out -> t:in",
        [
            "g.toml:4:65: orphan node: 'o', use graph.strict=false to disable orphan check",
        ],
    ),
    (
        "a node without a unit",
        "dot:s [flowunit=src]; w [device=cpu]; t [flowunit=sink]; s:out -> w:in; w:out -> t:in",
        [
            "g.toml:4:46: node 'w': flowunit name is empty. (give it an attribute flowunit=NAME; is the node's name spelled as where it is declared?)",
        ],
    ),
    (
        "a node that is only in edges",
        "dot:s [flowunit=src]; s:out -> t:in",
        [
            "g.toml:4:55: node 't': flowunit name is empty. (give it an attribute flowunit=NAME; is the node's name spelled as where it is declared?)",
        ],
    ),
    (
        "a unit that is not there",
        "src nothing sink",
        [
            "g.toml:4:66: node 'nothing': create flowunit 'nothing' failed. (searched: nowhere)",
        ],
    ),
    (
        "a device that is not there",
        "dot:s [flowunit=src, device=npu]; t [flowunit=sink]; s:out -> t:in",
        [
            "g.toml:4:52: node 's': create flowunit 'src' failed. (searched: nowhere)",
        ],
    ),
    (
        "a type of node that is not there",
        "dot:s [type=source, flowunit=src]; t [flowunit=sink]; s:out -> t:in",
        [
            "g.toml:4:36: node 's': unsupport node type 'source' (type is flowunit, input or output)",
        ],
    ),
    (
        "a number of a device without the device",
        "dot:s [flowunit=src, deviceid=1]; t [flowunit=sink]; s:out -> t:in",
        [
            "g.toml:4:54: node 's': deviceid needs a device (such as device=cpu, deviceid=0)",
        ],
    ),
    (
        "a queue of no size",
        "dot:s [flowunit=src]; t [flowunit=sink, queue_size=0]; s:out -> t:in",
        [
            "g.toml:4:75: node 't': queue size config is zero (a whole number from 1 on)",
        ],
    ),
    (
        "a limit of no rounds",
        "dot:s [flowunit=src]; l [flowunit=loop, loop_limit=0]; t [flowunit=sink]; s:out -> l:in; l:again -> l:in; l:done -> t:in",
        [
            "g.toml:4:75: node 'l': loop_limit='0' is out of range (a whole number from 1 to 1000000)",
        ],
    ),
    (
        "an option that is missing, and one that is wrong",
        "dot:s [flowunit=src]; w [flowunit=opt, size=x]; t [flowunit=sink]; s:out -> w:in; w:out -> t:in",
        [
            "g.toml:4:46: node 'w': option 'need' of opt is missing",
            "g.toml:4:68: node 'w': option size='x' is not allowed (a whole number)",
        ],
    ),
    # ---- edges----------------------------------------------------------------------------------------
    (
        "an output port that is not there",
        "src:ot sink",
        [
            "g.toml:4:70: src port is not exist, node: src port: ot (did you mean 'out'? output ports of src: out)",
        ],
    ),
    (
        "an input port that is not there",
        "src sink.inn",
        [
            "g.toml:4:70: dst port is not exist, node: sink port: inn (did you mean 'in'? input ports of sink: in)",
        ],
    ),
    (
        "an edge without its ports",
        "dot:s [flowunit=src]; t [flowunit=sink]; s -> t",
        [
            "g.toml:4:65: src port is missing, node: s (write s:PORT; output ports of src: out)",
            "g.toml:4:65: dst port is missing, node: t (write t:PORT; input ports of sink: in)",
        ],
    ),
    (
        "an input port without an edge",
        "src join.a; join sink",
        [
            "g.toml:4:48: node 'join' port 'b': in port is not connect. (flowunit 'join' config error, port not connect correctly; every input port needs an edge)",
        ],
    ),
    (
        "an output port without an edge",
        "src split:x sink",
        [
            "g.toml:4:48: node 'split' port 'y': out port is not connect. (flowunit 'split' config error, port not connect correctly; every output port needs an edge)",
        ],
    ),
    (
        "the same edge twice",
        "src sink; src sink",
        [
            "g.toml:4:90: link is already exist: src:out -> sink:in",
        ],
    ),
    (
        "two edges into one input",
        "src work1 sink; src work2 sink",
        [
            "g.toml:4:180: node 'sink' port 'in': One port links multi edges can not match at one port: work1:out and work2:out (an input takes one edge; only the branches of one condition may meet)",
        ],
    ),
    (
        "types that do not fit",
        "image text_sink",
        [
            "g.toml:4:84: type mismatch: image:out gives image, text_sink:in takes string",
        ],
    ),
    (
        "a cycle",
        "src join1.a; join1 work join1.b; join1 sink",
        [
            "g.toml:4:48: generate topology fail: the graph has a cycle: join1 -> work -> join1 (an edge must not lead back to a node before it)",
        ],
    ),
    (
        "a node that feeds itself",
        "src join.a; join split:x join.b; split:y sink",
        [
            "g.toml:4:48: generate topology fail: the graph has a cycle: join -> split -> join (an edge must not lead back to a node before it)",
        ],
    ),
    (
        "parts without a way between them",
        "src1 sink1; src2 sink2",
        [
            "g.toml:4:72: not all node union. 'src2' has no path to 'src1' (put separate pipelines into files of their own)",
        ],
    ),
]


@pytest.mark.parametrize(("text", "expected"), [row[1:] for row in RULES], ids=[row[0] for row in RULES])
def test_refused(text: str, expected: list[str]) -> None:
    assert problems(text.removeprefix("dot:") if text.startswith("dot:") else chain(text)) == expected


def test_every_complaint_names_its_place() -> None:
    """File, line and column, and the node or port; and there are as many kinds of mistakes as were promised."""
    for name, _, expected in RULES:
        assert expected, name
        for message in expected:
            assert message.startswith("g.toml:4:"), name
            assert (
                "node" in message
                or "port" in message
                or "link" in message
                or "mismatch" in message
                or "cycle" in message
            ), name
    assert len({name for name, _, _ in RULES}) == len({text for _, text, _ in RULES}) == len(RULES) >= 40
