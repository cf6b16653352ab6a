" Vim syntax file for the configuration of condor-gateway, made from its keyword table: change that, not this file.
" A keyword has its colour in its own section alone, so that one in a wrong place, or misspelt, stays plain.

if exists("b:current_syntax")
  finish
endif

syntax case match
syntax sync fromstart

syntax match condorgatewayComment "#.*$" contains=condorgatewayTodo
syntax keyword condorgatewayTodo contained TODO FIXME XXX
syntax region condorgatewayString start=+'+ end=+'+ oneline contained
syntax region condorgatewayString start=+"+ skip=+\\.+ end=+"+ oneline contained contains=condorgatewayVariable
syntax match condorgatewayVariable "\$\({[A-Za-z_][A-Za-z0-9_]*\(-[^}]*\)\?}\|[A-Za-z_][A-Za-z0-9_]*\)" contained
syntax match condorgatewayTime "\s\zs\d\+\(us\|ms\|s\|m\|h\|d\)\?\ze\(\s\|$\)" contained
syntax match condorgatewayAddress "\s\zs\(\d\+\.\)\{3}\d\+\([:/]\d\+\)\?\ze\(\s\|$\)" contained
syntax match condorgatewayAddress "\s\zs\[\?\x*:[0-9a-fA-F:.]\+\]\?\([:/]\d\+\)\?\ze\(\s\|$\)" contained
syntax match condorgatewayInclude "^\s*include\ze\s"

syntax region condorgatewayInGlobal matchgroup=condorgatewaySection start="^global\>" end="^\ze\(global\|console\|peers\|address\|defaults\|frontend\|backend\|listen\)\>" fold transparent
\ contains=condorgatewayComment,condorgatewayString,condorgatewayTime,condorgatewayAddress,condorgatewayInclude,condorgatewayGlobalKeyword,condorgatewayGlobalOption,condorgatewayGlobalChoice
syntax match condorgatewayGlobalKeyword "^\s\+\zs\(cluster\|description\|key-file\|log\|notify\s\+command\|notify\s\+fifo\|notify\s\+timeout\|notify\s\+user\|relay-workers\|state-dir\|stats\s\+socket\)\ze\(\s\|$\)" contained
syntax match condorgatewayGlobalOption "\s\zs\(format\|group\|level\|mode\|user\)\ze\(\s\|$\)" contained
syntax match condorgatewayGlobalChoice "\s\zs\(admin\|console\|json\|operator\|short\|stdout\)\ze\(\s\|$\)" contained

syntax region condorgatewayInConsole matchgroup=condorgatewaySection start="^console\>" end="^\ze\(global\|console\|peers\|address\|defaults\|frontend\|backend\|listen\)\>" fold transparent
\ contains=condorgatewayComment,condorgatewayString,condorgatewayTime,condorgatewayAddress,condorgatewayInclude,condorgatewayConsoleKeyword,condorgatewayConsoleOption,condorgatewayConsoleChoice
syntax match condorgatewayConsoleKeyword "^\s\+\zs\(admin\s\+token-file\|allow-host\|bind\|user\)\ze\(\s\|$\)" contained

syntax region condorgatewayInPeers matchgroup=condorgatewaySection start="^peers\>" end="^\ze\(global\|console\|peers\|address\|defaults\|frontend\|backend\|listen\)\>" fold transparent
\ contains=condorgatewayComment,condorgatewayString,condorgatewayTime,condorgatewayAddress,condorgatewayInclude,condorgatewayPeersKeyword,condorgatewayPeersOption,condorgatewayPeersChoice
syntax match condorgatewayPeersKeyword "^\s\+\zs\(guard-dead-time\|heartbeat\|lease\|on-partition\|peer\)\ze\(\s\|$\)" contained
syntax match condorgatewayPeersChoice "\s\zs\(gateway\|hold\|manager\|serve\|witness\)\ze\(\s\|$\)" contained

syntax region condorgatewayInAddress matchgroup=condorgatewaySection start="^address\>" end="^\ze\(global\|console\|peers\|address\|defaults\|frontend\|backend\|listen\)\>" fold transparent
\ contains=condorgatewayComment,condorgatewayString,condorgatewayTime,condorgatewayAddress,condorgatewayInclude,condorgatewayAddressKeyword,condorgatewayAddressOption,condorgatewayAddressChoice
syntax match condorgatewayAddressKeyword "^\s\+\zs\(holder\|ip\)\ze\(\s\|$\)" contained
syntax match condorgatewayAddressOption "\s\zs\(dev\)\ze\(\s\|$\)" contained

syntax region condorgatewayInDefaults matchgroup=condorgatewaySection start="^defaults\>" end="^\ze\(global\|console\|peers\|address\|defaults\|frontend\|backend\|listen\)\>" fold transparent
\ contains=condorgatewayComment,condorgatewayString,condorgatewayTime,condorgatewayAddress,condorgatewayInclude,condorgatewayDefaultsKeyword,condorgatewayDefaultsOption,condorgatewayDefaultsChoice
syntax match condorgatewayDefaultsKeyword "^\s\+\zs\(advertise\|balance\|default-server\|default_backend\|forward\|log\|maxconn\|maxconn-per-source\|mode\|negotiator\|no\s\+option\s\+condor-check\|no\s\+option\s\+tcplog\|option\s\+condor-check\|option\s\+tcplog\|rate-per-source\|replicate\s\+accounting\|timeout\s\+client\|timeout\s\+client-hello\|timeout\s\+connect\|timeout\s\+drain\|timeout\s\+queue\|warm-standby\)\ze\(\s\|$\)" contained
syntax match condorgatewayDefaultsOption "\s\zs\(backup\|check\|disabled\|enabled\|fall\|inter\|no-backup\|no-check\|rise\|transparent\)\ze\(\s\|$\)" contained
syntax match condorgatewayDefaultsChoice "\s\zs\(direct\|elected\|global\|nat\|off\|on\|on-elected\|proxy\|tcp\)\ze\(\s\|$\)" contained

syntax region condorgatewayInFrontend matchgroup=condorgatewaySection start="^frontend\>" end="^\ze\(global\|console\|peers\|address\|defaults\|frontend\|backend\|listen\)\>" fold transparent
\ contains=condorgatewayComment,condorgatewayString,condorgatewayTime,condorgatewayAddress,condorgatewayInclude,condorgatewayFrontendKeyword,condorgatewayFrontendOption,condorgatewayFrontendChoice
syntax match condorgatewayFrontendKeyword "^\s\+\zs\(bind\|default_backend\|description\|log\|maxconn\|maxconn-per-source\|mode\|no\s\+option\s\+tcplog\|option\s\+tcplog\|rate-per-source\|timeout\s\+client\|timeout\s\+client-hello\)\ze\(\s\|$\)" contained
syntax match condorgatewayFrontendOption "\s\zs\(proto\)\ze\(\s\|$\)" contained
syntax match condorgatewayFrontendChoice "\s\zs\(global\|tcp\)\ze\(\s\|$\)" contained

syntax region condorgatewayInBackend matchgroup=condorgatewaySection start="^backend\>" end="^\ze\(global\|console\|peers\|address\|defaults\|frontend\|backend\|listen\)\>" fold transparent
\ contains=condorgatewayComment,condorgatewayString,condorgatewayTime,condorgatewayAddress,condorgatewayInclude,condorgatewayBackendKeyword,condorgatewayBackendOption,condorgatewayBackendChoice
syntax match condorgatewayBackendKeyword "^\s\+\zs\(advertise\|balance\|default-server\|description\|forward\|log\|mode\|negotiator\|no\s\+option\s\+condor-check\|option\s\+condor-check\|replicate\s\+accounting\|replicate\s\+file\|server\|timeout\s\+connect\|timeout\s\+drain\|timeout\s\+queue\|warm-standby\)\ze\(\s\|$\)" contained
syntax match condorgatewayBackendOption "\s\zs\(backup\|check\|disabled\|enabled\|fall\|inter\|no-backup\|no-check\|rise\|transparent\)\ze\(\s\|$\)" contained
syntax match condorgatewayBackendChoice "\s\zs\(direct\|elected\|global\|nat\|off\|on\|on-elected\|proxy\|tcp\)\ze\(\s\|$\)" contained

syntax region condorgatewayInListen matchgroup=condorgatewaySection start="^listen\>" end="^\ze\(global\|console\|peers\|address\|defaults\|frontend\|backend\|listen\)\>" fold transparent
\ contains=condorgatewayComment,condorgatewayString,condorgatewayTime,condorgatewayAddress,condorgatewayInclude,condorgatewayListenKeyword,condorgatewayListenOption,condorgatewayListenChoice
syntax match condorgatewayListenKeyword "^\s\+\zs\(advertise\|balance\|bind\|default-server\|description\|forward\|log\|maxconn\|maxconn-per-source\|mode\|negotiator\|no\s\+option\s\+condor-check\|no\s\+option\s\+tcplog\|option\s\+condor-check\|option\s\+tcplog\|rate-per-source\|replicate\s\+accounting\|replicate\s\+file\|server\|timeout\s\+client\|timeout\s\+client-hello\|timeout\s\+connect\|timeout\s\+drain\|timeout\s\+queue\|warm-standby\)\ze\(\s\|$\)" contained
syntax match condorgatewayListenOption "\s\zs\(backup\|check\|disabled\|enabled\|fall\|inter\|no-backup\|no-check\|proto\|rise\|transparent\)\ze\(\s\|$\)" contained
syntax match condorgatewayListenChoice "\s\zs\(direct\|elected\|global\|nat\|off\|on\|on-elected\|proxy\|tcp\)\ze\(\s\|$\)" contained

highlight default link condorgatewayComment Comment
highlight default link condorgatewayTodo Todo
highlight default link condorgatewayString String
highlight default link condorgatewayVariable PreProc
highlight default link condorgatewayTime Number
highlight default link condorgatewayAddress Constant
highlight default link condorgatewayInclude Include
highlight default link condorgatewaySection Structure
highlight default link condorgatewayGlobalKeyword Statement
highlight default link condorgatewayConsoleKeyword Statement
highlight default link condorgatewayPeersKeyword Statement
highlight default link condorgatewayAddressKeyword Statement
highlight default link condorgatewayDefaultsKeyword Statement
highlight default link condorgatewayFrontendKeyword Statement
highlight default link condorgatewayBackendKeyword Statement
highlight default link condorgatewayListenKeyword Statement
highlight default link condorgatewayGlobalOption Identifier
highlight default link condorgatewayConsoleOption Identifier
highlight default link condorgatewayPeersOption Identifier
highlight default link condorgatewayAddressOption Identifier
highlight default link condorgatewayDefaultsOption Identifier
highlight default link condorgatewayFrontendOption Identifier
highlight default link condorgatewayBackendOption Identifier
highlight default link condorgatewayListenOption Identifier
highlight default link condorgatewayGlobalChoice Type
highlight default link condorgatewayConsoleChoice Type
highlight default link condorgatewayPeersChoice Type
highlight default link condorgatewayAddressChoice Type
highlight default link condorgatewayDefaultsChoice Type
highlight default link condorgatewayFrontendChoice Type
highlight default link condorgatewayBackendChoice Type
highlight default link condorgatewayListenChoice Type

let b:current_syntax = "condorgateway"
